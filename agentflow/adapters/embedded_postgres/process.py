"""The PostgreSQL process of one place: is it there, start it, end it. Starting and ending need the place's lock."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from agentflow.adapters.embedded_postgres.place import SOCKET_NAME, Place
from agentflow.errors import Unavailable

POLL_S = 0.02
LEFTOVER_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Postmaster:
    """PostgreSQL's first process. `ready` is what it says of itself in postmaster.pid."""

    pid: int
    ready: bool


def find_postmaster(place: Place) -> Postmaster | None:
    """The living postmaster of this place. A stale postmaster.pid, or one whose pid somebody else has now, counts as none."""
    try:
        lines = (place.cluster / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (OSError, ValueError, IndexError):
        return None
    if not _serves(pid, place):
        return None
    return Postmaster(pid=pid, ready=len(lines) > 7 and lines[7].strip() == "ready")


def spawn(place: Place, binaries: Path, settings: Mapping[str, str]) -> int:
    """Start PostgreSQL as a process that outlives this one; its pid. It is not ready when this returns. Raises Unavailable."""
    _end_leftovers(place)
    command = [str(binaries / "postgres"), "-D", str(place.cluster)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    with place.log.open("ab") as log:
        # The shell ends at once, so that PostgreSQL belongs to init: nobody's child, nobody's zombie, in no Ray worker's process group.
        done = subprocess.run(
            ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=10,
            start_new_session=True,
            check=False,
            **run_as(place),
        )
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL could not be started. Its log {place.log} ends with:\n{log_end(place)}")
    return int(done.stdout)


def wait_ready(place: Place, pid: int, timeout_s: float) -> None:
    """Wait until PostgreSQL takes connections. Raises Unavailable with the end of its log when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = find_postmaster(place)
        if found and found.ready:
            return
        if not is_alive(pid):
            raise Unavailable(f"PostgreSQL ended while it started. Its log {place.log} ends with:\n{log_end(place)}")
        time.sleep(POLL_S)
    raise Unavailable(f"PostgreSQL did not get ready within {timeout_s:g} s. Its log {place.log} ends with:\n{log_end(place)}")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(pid: int, timeout_s: float) -> None:
    """Fast shutdown (open transactions are rolled back); after `timeout_s` the immediate one, which recovers at the next start."""
    for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        try:
            psutil.Process(pid).send_signal(sign)
        except psutil.NoSuchProcess:
            return
        if not _still_alive([pid], timeout_s):
            return


def run_as(place: Place) -> dict[str, Any]:
    """Keyword arguments for subprocess: PostgreSQL's user, an empty environment, a folder that this user may enter."""
    arguments: dict[str, Any] = {"cwd": "/", "env": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}}
    if place.account:
        arguments |= {"user": place.account.uid, "group": place.account.gid, "extra_groups": []}
    return arguments


def log_end(place: Place) -> str:
    try:
        with place.log.open("rb") as log:
            log.seek(max(0, place.log.stat().st_size - 2000))
            return log.read().decode("utf-8", "replace").strip()
    except OSError as error:
        return f"(no log: {error})"


def _serves(pid: int, place: Place) -> bool:
    """Whether `pid` is a PostgreSQL that works in this place: its working folder is PGDATA, which no other program's is."""
    try:
        process = psutil.Process(pid)
        return (
            process.status() != psutil.STATUS_ZOMBIE and process.name() == "postgres" and process.cwd() == os.path.realpath(place.cluster)
        )
    except psutil.Error:
        return False


def _end_leftovers(place: Place) -> None:
    """Children of a postmaster that was killed hold its shared memory, and PostgreSQL refuses to start beside them.

    They notice by themselves, mostly at once; the ones that hang in a query are killed. Recovery from the journal follows either way.
    """
    left = [pid for pid in psutil.pids() if _serves(pid, place)]
    for pid in _still_alive(left, 1.0):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    if left := _still_alive(left, LEFTOVER_TIMEOUT_S):
        raise Unavailable(f"An earlier PostgreSQL does not end (pids {left}). End it, then start again.")
    # Its lock files name a pid that may be a zombie or somebody else by now, which PostgreSQL would take for a living server.
    (place.cluster / "postmaster.pid").unlink(missing_ok=True)
    (place.sockets / f"{SOCKET_NAME}.lock").unlink(missing_ok=True)


def _still_alive(pids: list[int], timeout_s: float) -> list[int]:
    """Wait for these to end; the ones that did not. (psutil's own wait counts a zombie as alive, and init reaps when it likes.)"""
    deadline = time.monotonic() + timeout_s
    while (pids := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return pids
