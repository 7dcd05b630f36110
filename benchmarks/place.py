"""A place of its own for whatever a benchmark starts: a home folder whose processes and files go when it is closed.

Everything started for a place inherits its mark (cluster.ray_head.MARK), so that it is found and ended by pid, and nothing else is.
A benchmark that was killed could not tidy up: its places are known by a lock that nobody holds any more, and the next run sweeps them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.cluster import ray_head, state
from agentflow.settings import PREFIX, Settings

ROOT = Path(tempfile.gettempdir()) / f"agentflow-benchmarks-{os.geteuid()}"
LOCK = "lock-of-benchmark"


class Place:
    """`home` is a fresh folder. Use `open_place`."""

    def __init__(self, home: Path, lock: int) -> None:
        self.home = home
        self._lock: int | None = lock

    @property
    def postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.home)

    def settings(self) -> Settings:
        """Those of a cluster here: free ports, loopback, defaults otherwise."""
        return Settings(home=self.home, database_url=None, port=0, dashboard_port=0, host="127.0.0.1")

    def environment(self) -> dict[str, str]:
        """The caller's, without his own settings of Ray and AgentFlow, with this place's mark and its home as AgentFlow's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", PREFIX))}
        return inherited | {
            ray_head.MARK: str(self.home),
            "AGENTFLOW_HOME": str(self.home),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def close(self) -> None:
        """End every process and remove every file of this place. Idempotent. Raises Unavailable when a process does not end."""
        if self._lock is None:
            return
        _clear(self.home)
        shutil.rmtree(self.home, ignore_errors=True)
        os.close(self._lock)
        self._lock = None


def open_place(stack: ExitStack) -> Place:
    """A fresh one, closed with the stack."""
    ROOT.mkdir(mode=0o700, exist_ok=True)
    home = Path(tempfile.mkdtemp(dir=ROOT))
    lock = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    place = Place(home, lock)
    stack.callback(place.close)
    return place


def sweep(tell: Callable[[str], None]) -> None:
    """End and remove what benchmarks that were killed have left."""
    for home in sorted(ROOT.glob("*")):
        try:
            lock = os.open(home / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it is being made, or being removed
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            tell(f"clearing away what a benchmark that was killed left in {home}")
            _clear(home)
            shutil.rmtree(home, ignore_errors=True)
        finally:
            os.close(lock)


def _clear(home: Path) -> None:
    ray_head.end_all(home)
    EmbeddedPostgres(home).destroy()
    shutil.rmtree(state.run_folder(home), ignore_errors=True)
