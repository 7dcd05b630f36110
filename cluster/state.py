"""The home folder of a local cluster: its address file, its keys, its lock, and the short folder for sockets."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentflow.errors import Conflict, Unavailable
from agentflow.settings import Settings


@dataclass(frozen=True, slots=True)
class Listener:
    """`what` listens on host:port."""

    what: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A running cluster; what cluster.json holds. No secret is in it."""

    url: str
    dashboard_url: str
    ray_address: str
    ray_environment: Mapping[str, str]
    """What a driver must have in its environment before it imports Ray."""
    run_folder: str
    pids: Mapping[str, int]
    """gcs_server and raylet; without both the cluster is dead."""
    gcs_command: tuple[str, ...]
    """How gcs_server was started; the very same brings it back with all it knew."""
    listeners: tuple[Listener, ...]
    app_dir: str
    key_file: str
    token_file: str
    embedded_postgres: bool
    versions: Mapping[str, str]
    started_at: datetime
    seconds: Mapping[str, float] = field(default_factory=dict)
    """How long each part of the start took."""
    fresh: bool = False
    """This very call of `up` started it. Not stored."""

    @property
    def docs_url(self) -> str:
        return f"{self.url}/docs"


def read_address(settings: Settings) -> ClusterAddress | None:
    """What the last `up` wrote, whether that cluster still lives or not. None: nothing was started, or it was stopped."""
    try:
        found: dict[str, Any] = json.loads(settings.cluster_file.read_text("utf-8"))
        found["listeners"] = tuple(Listener(**listener) for listener in found["listeners"])
        found["gcs_command"] = tuple(found["gcs_command"])
        found["started_at"] = datetime.fromisoformat(found["started_at"])
        return ClusterAddress(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None  # of another version, or damaged: `up` and `down` clean up by the processes, not by this file


def write_address(settings: Settings, address: ClusterAddress) -> None:
    """Atomic: a reader sees the whole file or none."""
    content = asdict(address) | {"started_at": address.started_at.astimezone(UTC).isoformat()}
    del content["fresh"]
    write_private(settings.cluster_file, json.dumps(content, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, whole or not at all."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def prepare_home(settings: Settings) -> None:
    """Make the home folder, closed to others. Raises Unavailable."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        if settings.home.stat().st_uid == os.geteuid():
            settings.home.chmod(0o700)
        settings.logs.mkdir(exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The home folder {settings.home} cannot be used: {error}. Name another in AGENTFLOW_HOME.") from error


def secret_of(path: Path) -> str:
    """The secret in the file; made when it is not there."""
    try:
        if found := path.read_text("utf-8").strip():
            path.chmod(0o600)
            return found
    except FileNotFoundError:
        pass
    secret = secrets.token_urlsafe(32)
    write_private(path, secret + "\n")
    return secret


def run_folder(home: Path) -> Path:
    """For sockets: Ray and HAProxy append up to 86 characters, and a socket's path may have 107, so it cannot be in the home."""
    digest = hashlib.blake2b(f"{os.geteuid()}:{home}".encode(), digest_size=6).hexdigest()
    return Path("/tmp") / f"af-{digest}"


def make_run_folder(settings: Settings) -> Path:
    """An empty one that only we can enter. Raises Unavailable when somebody else put something in its place."""
    folder = run_folder(settings.home)
    remove_run_folder(settings)
    try:
        folder.mkdir(mode=0o700)  # fails if anything is there, a link included
    except OSError as error:
        raise Unavailable(f"{folder}, the folder for sockets, cannot be made: {error}. Is it another user's? Remove it.") from error
    return folder


def remove_run_folder(settings: Settings) -> None:
    folder = run_folder(settings.home)
    if not folder.is_symlink() and folder.exists() and folder.stat().st_uid == os.geteuid():
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time for a home folder. Raises Conflict."""
    descriptor = os.open(settings.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another `agentflow up` or `down` is at work in {settings.home}. Wait until it ends.") from None
        yield
    finally:
        os.close(descriptor)
