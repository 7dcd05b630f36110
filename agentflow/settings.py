"""Every setting of a cluster: environment variables AGENTFLOW_…, then `agentflow.toml`, then the defaults here.

Read once at the edge (the command line, `connect(start=True)`) and passed in; nothing below the actors knows this module.
docs/settings.md is made from it: `python -m agentflow.settings` prints it.
"""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from agentflow.errors import InvalidRequest, NotYet

PREFIX = "AGENTFLOW_"
FILE = "agentflow.toml"
UNSAFE_TOOLS_VARIABLE = "AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS"
CLIENT_VARIABLES = {"AGENTFLOW_URL", "AGENTFLOW_KEY"}
"""Read by the client, which has no settings of a cluster."""


def _folders(value: object) -> object:
    """`a:b` as the environment has it, or a list as the file has it."""
    return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


def _expanded(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, (str, Path)) else value


Folder = Annotated[Path, BeforeValidator(_expanded)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """Immutable. Raises pydantic's ValidationError (names, values and limits in it), and NotYet for what this version lacks."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        toml_file=FILE,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_default=True,
        use_attribute_docstrings=True,
    )

    home: Folder = Path("~/.agentflow")
    """Folder of the cluster's state: key, addresses, logs, and (unless root starts it) the embedded PostgreSQL."""
    database_url: SecretStr | None = None
    """PostgreSQL 15 or newer, `postgresql://user:password@host/name`. Not set: an embedded PostgreSQL, for one machine."""
    app_dir: Folder | None = None
    """Folder whose agents and tools the cluster offers. Not set: the current one."""

    host: str = "127.0.0.1"
    """Where the API listens. `0.0.0.0` opens it to the network: put TLS in front of it."""
    port: Port = 8000
    """The API's port; 0 takes a free one."""
    dashboard_port: Port = 8265
    """Port of Ray's own dashboard, always on the loopback; 0 takes a free one."""
    proxy_stats_port: Port = 0
    """Port of HAProxy's statistics page, always on the loopback; 0 takes a free one."""
    proxy_metrics_port: Port = 0
    """Port of HAProxy's Prometheus metrics, always on the loopback; 0 takes a free one."""
    replica_port: Port = 0
    """First of the 100 ports that HTTP replicas listen on, on the loopback; 0 finds a free stretch from 30000 up."""
    http_replicas: int = Field(default=2, ge=1, le=64)
    """Processes that serve the API."""
    haproxy: bool = True
    """Serve behind HAProxy (five times the requests per second). Off: Ray Serve's own proxy."""

    supervisors: int = Field(default=1, ge=1, le=16)
    """Supervisor actors. More than one comes in a later version."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs that Ray may give to agents that reserve some. Not set: all of the machine's."""
    warm_agents: int = Field(default=1, ge=0, le=256)
    """Idle agent processes kept ready, so that a new agent starts in milliseconds; each takes about 110 MB."""
    agent_mailbox_limit: int = Field(default=1_024, ge=1)
    """Steps that may wait in one agent's mailbox; more are held back by the supervisor."""
    agent_idle_s: float = Field(default=300.0, gt=0)
    """An agent that had nothing to do for this long gives its process back; its state stays in PostgreSQL."""
    step_crash_limit: int = Field(default=3, ge=1)
    """A step whose process died this often fails for good."""

    sandbox_pool_size: int = Field(default=2, ge=0, le=256)
    """Booted sandboxes kept ready on a node; each call takes one and ends it."""
    sandbox_queue_limit: int = Field(default=256, ge=1)
    """Tool calls that may wait for a sandbox on a node."""
    mount_roots: Annotated[tuple[Folder, ...], NoDecode, BeforeValidator(_folders)] = ()
    """Folders (`:` between them) that executions started over HTTP may mount into sandboxes. None by default."""
    unsafe_subprocess_tools: bool = False
    """UNSAFE, for development without gVisor: tools run as plain subprocesses with your rights and no isolation."""

    payload_limit_bytes: int = Field(default=4 << 20, ge=1 << 10, le=64 << 20)
    """Largest request body; a larger one is answered 413."""
    output_limit_bytes: int = Field(default=16 << 20, ge=1 << 10, le=256 << 20)
    """Largest result of a step."""
    execution_event_limit: int = Field(default=50_000, ge=100, le=50_000)
    """An execution ends with an error at this many events."""
    metrics_open: bool = False
    """/metrics without a key, for a Prometheus that cannot send one. The labels name workflows and agents."""

    start_timeout_s: float = Field(default=120.0, gt=0)
    """`agentflow up` gives up after this long."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Of AgentFlow's own processes. Payloads are never logged at INFO."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then agentflow.toml of the current folder."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("home", "app_dir")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return folder.absolute() if folder else None

    @field_validator("supervisors")
    @classmethod
    def _one_supervisor(cls, count: int) -> int:
        if count != 1:
            raise NotYet(f"{PREFIX}SUPERVISORS={count}: more than one supervisor is not yet there. Leave it at 1.")
        return count

    @property
    def key_file(self) -> Path:
        """The API key of this machine's operator, mode 0600."""
        return self.home / "key"

    @property
    def cluster_file(self) -> Path:
        """Addresses and processes of the running cluster; not there when none runs."""
        return self.home / "cluster.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def node_dir(self) -> Path:
        """What tool actors keep on this machine: root filesystem and bundles of sandboxes."""
        return self.home / "node"


def load_settings(**overrides: Any) -> Settings:
    """The settings; `overrides` is what the command line says, None being not said. Raises InvalidRequest with all errors at once."""
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        found = [
            f"{PREFIX}{'.'.join(str(part) for part in item['loc']).upper()}: {item['msg']}" for item in error.errors(include_input=False)
        ]
        raise InvalidRequest(f"The settings (environment, {FILE}) are wrong. " + "; ".join(found), errors=found) from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{FILE} in {Path.cwd()} cannot be read: {error}") from None


def unknown_variables() -> list[str]:
    """AGENTFLOW_… variables of the environment that nobody reads: most likely misspelt."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | CLIENT_VARIABLES
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def reference() -> str:
    """docs/settings.md: one line a setting."""
    lines = [
        "# Settings",
        "",
        "Environment variables win over `agentflow.toml` in the current folder (the same names in lower case, without the prefix);",
        "arguments of the command line win over both. Made by `python -m agentflow.settings`; a test keeps it true.",
        "",
        "| variable | default | what it is |",
        "|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = "not set" if field.default in (None, ()) else f"`{json.dumps(field.default, default=str).strip(chr(34))}`"
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
