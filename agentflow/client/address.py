"""Where the cluster is and which key it takes: arguments first, then the environment, then the local cluster's own files."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from agentflow.errors import ClusterDown, InvalidRequest

URL_VARIABLE = "AGENTFLOW_URL"
KEY_VARIABLE = "AGENTFLOW_KEY"
HOME_VARIABLE = "AGENTFLOW_HOME"
CLUSTER_FILE = "cluster.json"
"""In the home folder while a local cluster runs; its `url` is the API's."""
KEY_FILE = "key"

ADVICE = "Start one with `agentflow up`, or name one: connect(url=…, key=…), or AGENTFLOW_URL and AGENTFLOW_KEY."


@dataclass(frozen=True, slots=True)
class Address:
    """`local`: found through the home folder, so that this machine's paths mean the same to the cluster."""

    url: str
    key: str | None = field(repr=False)
    local: bool


def home_folder(home: str | os.PathLike[str] | None = None) -> Path:
    """The folder that keeps a local cluster's state: the argument, AGENTFLOW_HOME, or ~/.agentflow."""
    return Path(home or os.environ.get(HOME_VARIABLE) or "~/.agentflow").expanduser()


def find_address(url: str | None = None, key: str | None = None, *, home: str | os.PathLike[str] | None = None) -> Address:
    """The address to talk to. Raises ClusterDown, with advice, when nothing says where a cluster is."""
    folder = home_folder(home)
    named = url or (None if home is not None else os.environ.get(URL_VARIABLE))
    if named:
        if not named.startswith(("http://", "https://")):
            raise InvalidRequest(f"The url {named!r} must begin with http:// or https://.")
        own = _cluster_url(folder) == named.rstrip("/")
        found = key or os.environ.get(KEY_VARIABLE) or (_key(folder) if own else None)
        return Address(named.rstrip("/"), found, own)
    running = _cluster_url(folder)
    if running is None:
        raise ClusterDown(f"No AgentFlow cluster runs here ({folder / CLUSTER_FILE} is not there). {ADVICE}")
    own_key = key or (None if home is not None else os.environ.get(KEY_VARIABLE)) or _key(folder)
    return Address(running, own_key, True)


def _cluster_url(folder: Path) -> str | None:
    try:
        found = json.loads((folder / CLUSTER_FILE).read_text("utf-8")).get("url")
    except (OSError, ValueError, AttributeError):
        return None
    return str(found).rstrip("/") if found else None


def _key(folder: Path) -> str | None:
    try:
        return (folder / KEY_FILE).read_text("utf-8").strip() or None
    except OSError:
        return None
