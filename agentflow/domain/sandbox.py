"""What a sandboxed call may use, asks for, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Isolation(StrEnum):
    GVISOR = "gvisor"
    """A gVisor sandbox of its own for each call; the default."""
    INLINE = "inline"
    """In the tool actor's own process: for code that is trusted as much as AgentFlow itself."""
    SUBPROCESS = "subprocess"
    """A plain process without isolation; only under the setting `unsafe_subprocess_tools`."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What one call may use; every limit ends the call with an outcome of its own. Defaults: sandbox.md, section 8."""

    isolation: Isolation = Isolation.GVISOR
    wall_s: float = 10.0
    memory_bytes: int = 384 << 20
    """The whole sandbox, its temporary files included; over it the kernel ends the sandbox (`oom`)."""
    address_space_bytes: int = 256 << 20
    """Of the tool's process; over it the tool sees MemoryError (`memory`)."""
    cpu: float = 1.0
    processes: int = 24
    disk_bytes: int = 32 << 20
    """Of /tmp and of /workspace each; in memory."""
    output_bytes: int = 1 << 20
    """Of stdout and stderr kept; the rest is dropped and `output_truncated` says so."""
    reply_bytes: int = 4 << 20
    """Of the returned value."""
    cpu_s: float | None = None
    """CPU seconds of the tool's process, rounded up; over it the call ends (`cpu`). None: what `cpu` cores give in `wall_s`."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host folder, visible read-only in the sandbox at `target`. `source` is resolved (no links) and was allowed."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class SandboxCall:
    """One call of a Python function: `source` is the text of its module, which may import the standard library only
    (and `agentflow` for its decorators). `arguments`: a JSON object as bytes."""

    source: str
    module: str
    function: str
    arguments: bytes
    profile: Profile
    mounts: tuple[Mount, ...] = ()


class OutcomeKind(StrEnum):
    OK = "ok"
    EXIT = "exit"
    """The code called exit; `exit_code` says with what."""
    ERROR = "error"
    """It raised, or returned what JSON cannot hold."""
    MEMORY = "memory"
    CPU = "cpu"
    TIMEOUT = "timeout"
    OOM = "oom"
    PIDS = "pids"
    CRASH = "crash"
    """It ended without an answer, or answered nonsense."""
    START_FAILED = "start_failed"
    LOST = "lost"
    """The one who watched it is gone; nobody knows how it ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `value`: JSON bytes, only when ok. `output`: stdout and stderr as they came, decoded with replacement."""

    kind: OutcomeKind
    value: bytes | None = None
    message: str = ""
    exit_code: int | None = None
    output: str = ""
    output_truncated: bool = False
    wall_s: float = 0.0
    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    cold: bool = False
    error_type: str = ""
    """Class name of the exception, when kind is error."""


@dataclass(frozen=True, slots=True)
class SandboxCapabilities:
    """What a launcher can do on this node, found by probing. `available` False: `reason` says why and what to install."""

    name: str
    available: bool
    reason: str = ""
    version: str = ""
    platform: str = ""
    cgroup: str = ""
    """`v1`, `v2`, or empty: then only the guest's own limits bound a call."""
    isolates: bool = True
