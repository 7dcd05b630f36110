"""The embedded PostgreSQL as one object: start, stop, is_running, url."""

from __future__ import annotations

import fcntl
import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from agentflow.adapters.embedded_postgres import process
from agentflow.adapters.embedded_postgres.binaries import find_binaries
from agentflow.adapters.embedded_postgres.place import Place, place_of, prepare, remove
from agentflow.errors import Unavailable

USER = "agentflow"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SETTINGS = {
    "listen_addresses": "",  # the socket in a closed folder only: nothing on the network, not even loopback
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "synchronous_commit": "on",  # a commit that was answered survives a power cut: the product's promise hangs on it
    "fsync": "on",
    "full_page_writes": "on",
    "wal_compression": "on",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # short statements: compiling them costs more than it brings
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "cluster_name": "agentflow",
}


class EmbeddedPostgres:
    """One PostgreSQL per home folder. Synchronous; all methods may be called from any number of processes and threads at once."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @property
    def url(self) -> str:
        """How to connect; holds the password, so never log it. Raises Unavailable when PostgreSQL was never started here."""
        place = place_of(self._home)
        try:
            password = place.password.read_text().strip()
        except OSError as error:
            raise Unavailable(f"The embedded PostgreSQL in {place.root} cannot be used: {error}. Start it with `agentflow up`.") from error
        return f"postgresql://{USER}:{quote(password, safe='')}@/postgres?host={quote(str(place.sockets), safe='/')}"

    @property
    def pid(self) -> int | None:
        found = process.find_postmaster(place_of(self._home))
        return found.pid if found else None

    @property
    def log(self) -> Path:
        return place_of(self._home).log

    @property
    def folder(self) -> Path:
        """Where its files lie (outside of the home folder when root starts it)."""
        return place_of(self._home).root

    def is_running(self) -> bool:
        """Whether it takes connections."""
        found = process.find_postmaster(place_of(self._home))
        return found is not None and found.ready

    def start(self) -> str:
        """Start it, or adopt the one that runs; the url. About 0.2 s, the first time 2 s. Raises Unavailable."""
        place = prepare(self._home)
        with _locked(place):
            found = process.find_postmaster(place)
            if found is None:
                binaries = find_binaries()
                if not (place.cluster / "PG_VERSION").exists():
                    _initialise(place, binaries)
                settings = SETTINGS | {"unix_socket_directories": str(place.sockets)}
                process.wait_ready(place, process.spawn(place, binaries, settings), START_TIMEOUT_S)
            elif not found.ready:
                process.wait_ready(place, found.pid, START_TIMEOUT_S)
        return self.url

    def stop(self) -> bool:
        """Stop it; False when it did not run."""
        place = place_of(self._home)
        if not place.root.exists():
            return False
        with _locked(place):
            found = process.find_postmaster(place)
            if found is None:
                return False
            process.end(found.pid, STOP_TIMEOUT_S)
            return True

    def destroy(self) -> None:
        """Stop it and delete all its data."""
        self.stop()
        remove(place_of(self._home))


@contextmanager
def _locked(place: Place) -> Iterator[None]:
    """One start or stop at a time, over all processes; the kernel lets go when the holder dies."""
    descriptor = os.open(place.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _initialise(place: Place, binaries: Path) -> None:
    """Make the database cluster, in a folder that is empty or holds what an interrupted initdb left. Raises Unavailable."""
    for leftover in sorted(place.cluster.rglob("*"), reverse=True):
        leftover.rmdir() if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    password = secrets.token_urlsafe(32)
    handover = place.sockets / "initial-password"
    descriptor = os.open(handover, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password)
    if place.account:
        os.chown(handover, place.account.uid, place.account.gid)
    command = [
        *(str(binaries / "initdb"), "-D", str(place.cluster), "-U", USER, "--auth=scram-sha-256", f"--pwfile={handover}"),
        *("--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        *("--no-sync", "--no-instructions"),  # nothing is lost if the power fails now: it is made again
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False, **process.run_as(place)
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"initdb in {place.cluster} did not end within {error.timeout:g} s; is the disk very slow?") from error
    finally:
        handover.unlink(missing_ok=True)
    if done.returncode != 0:
        raise Unavailable(f"initdb in {place.cluster} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    os.sync()
    _write_password(place.password, password)


def _write_password(path: Path, password: str) -> None:
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(password + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
