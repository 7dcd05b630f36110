"""`durable_steps`: 10-step chains, each step committed before the next begins, against DBOS on the same PostgreSQL.

Ours goes the whole way: an API replica's command queue, the supervisor actor, group commit with fence and projections, the agent
actor, and back. The peer is measured with one process and with one for each CPU, and is compared at its better one.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks import profiling, usage
from benchmarks.closed_loop import STEPS
from benchmarks.contender import Contender
from benchmarks.figure import Figure, Outcome, Table
from benchmarks.place import open_place
from benchmarks.ray_place import start_ray
from benchmarks.registry import Run
from benchmarks.samples import median, percentile, spread
from benchmarks.turns import in_turns

NAME = "durable_steps"
LEVELS, QUICK_LEVELS = (1, 64, 256), (1, 64)
TURN_S, QUICK_TURN_S = 4.0, 2.0
LIMIT_S, QUICK_LIMIT_S = 2.0, 1.0
ROUNDS, QUICK_ROUNDS = 5, 2
PROFILE_S = 8.0
START_TIMEOUT_S, TURN_TIMEOUT_S = 180.0, 300.0
OURS = "ours"
PEER_DATABASE = "benchmark_dbos"
WORKLOAD = Path(__file__).parent / "workloads" / "chain"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contender did in one turn. `cpu`: seconds by group of processes."""

    steps: int
    steps_per_s: float
    latencies_s: Sequence[float]
    cpu: dict[str, float]


class Arena:
    """Everything that runs for this benchmark."""

    def __init__(self, run: Run) -> None:
        """Starts it all, one after another. Raises ContenderFailed, Unavailable, ClusterDown."""
        self._run = run
        self._place = open_place(run.stack)
        run.tell("starting PostgreSQL")
        url = self._place.postgres.start()
        self.durability = asyncio.run(_prepare(url))
        run.tell("starting DBOS, Ray and the supervisor")
        peer_env = self._place.environment() | {"DBOS_SYSTEM_DATABASE_URL": url.replace("/postgres?", f"/{PEER_DATABASE}?")}
        peer = partial(self._contender, "benchmarks.peers.dbos_chains", env=peer_env)
        self.peers = [peer(["0"], name="dbos-0")]  # makes the tables; the others wait for it
        env = start_ray(self._place)
        env |= {"BENCHMARK_DATABASE_URL": url, "BENCHMARK_APP_DIR": str(WORKLOAD)}
        self.ours = self._contender("benchmarks.ours.chains", [], env=env, name="ours")
        for contender in (*self.peers, self.ours):
            contender.ask("ready", timeout_s=START_TIMEOUT_S)
        self.peers += [peer([str(number)], name=f"dbos-{number}") for number in range(1, os.cpu_count() or 1)]
        for contender in self.peers[1:]:
            contender.ask("ready", timeout_s=START_TIMEOUT_S)

    def _contender(self, module: str, arguments: Sequence[str], *, env: dict[str, str], name: str) -> Contender:
        log = self._place.home / "logs" / f"{name}.log"
        return Contender(module, arguments=arguments, env=env, log=log, stack=self._run.stack)

    def turn(self, contender: str, in_flight: int, seconds: float) -> Turn:
        """`contender`: OURS, or a peer's name from `peer_names`."""
        groups = usage.groups_of(self._place, driver=self.ours.pid, peers=[peer.pid for peer in self.peers])
        before = usage.by_process(groups)
        processes = [self.ours] if contender == OURS else self.peers[: _process_count(contender)]
        found = self._ask_all(processes, in_flight, seconds)
        cpu = usage.spent(before, usage.by_process(groups))
        chains = sum(answer["chains"] for answer in found)
        took = max(answer["seconds"] for answer in found)
        latencies = [latency for answer in found for latency in answer["latencies_s"]]
        turn = Turn(chains * STEPS, chains * STEPS / took, latencies, cpu)
        self._run.tell(f"{in_flight:4} in flight, {contender}: {turn.steps_per_s:,.0f} steps/s")
        return turn

    def _ask_all(self, processes: Sequence[Contender], in_flight: int, seconds: float) -> list[dict[str, Any]]:
        """Each gets its share of what is in flight, and other inputs than the others."""
        for number, process in enumerate(processes):
            share = in_flight // len(processes) + (number < in_flight % len(processes))
            process.tell("chains", in_flight=share, seconds=seconds, seed=self._run.seed + number)
        return [process.answer(timeout_s=TURN_TIMEOUT_S) for process in processes]

    def profile(self, in_flight: int, folder: Path) -> list[Table]:
        """Where our processes spend their time, in a turn that is no figure: being watched costs some of it."""
        groups = usage.groups_of(self._place, driver=self.ours.pid, peers=[])
        agents = sorted(groups["agent"], key=lambda process: sum(process.cpu_times()[:2]))  # the busiest last; others are the warm pool
        processes = {"supervisor": groups["supervisor"][0].pid, "agent": agents[-1].pid, "driver": self.ours.pid}
        sampling = profiling.start(processes, folder, seconds=PROFILE_S)
        try:
            self.turn(OURS, in_flight, PROFILE_S + 1)
        finally:
            profiling.finish(sampling)
        return [profiling.table_of(name, folder) for name in processes]

    def peer_names(self, in_flight: int) -> list[str]:
        """One process; and, where there is something to share, one for each CPU (that alone when it must be quick: it is the faster)."""
        version = importlib.metadata.version("dbos")
        counts = [1] if in_flight == 1 else sorted({1, len(self.peers)})
        counts = counts[-1:] if self._run.quick else counts
        return [f"DBOS {version}, {count} process{'es' if count > 1 else ''}" for count in counts]


def run(run: Run) -> Outcome:
    arena = Arena(run)
    levels = QUICK_LEVELS if run.quick else LEVELS
    seconds = QUICK_TURN_S if run.quick else TURN_S
    rounds = run.rounds_or(ROUNDS, QUICK_ROUNDS)
    run.tell("warming up")
    for contender in (OURS, arena.peer_names(levels[1])[-1]):
        arena.turn(contender, 16, 1.0)
    figures: list[Figure] = []
    speeds: list[tuple[str, ...]] = []
    times: list[tuple[str, ...]] = []
    for level in levels:
        turns = in_turns([OURS, *arena.peer_names(level)], rounds, lambda name, level=level: arena.turn(name, level, seconds))  # type: ignore[misc]
        figures += figures_of(level, turns)
        for name, found in turns.items():
            speeds.append(_speed_row(level, name, found))
            times.append(_cpu_row(level, name, found))
        if level == 1:
            step_ms = median(percentile(turn.latencies_s, 0.5) for turn in turns[OURS]) * 1e3 / STEPS
    tables: list[Table] = []
    if run.profile is not None:
        for level in levels:
            tables += arena.profile(level, run.profile / f"{level}-in-flight")
    run.tell("the physical limits: bare calls and commits")
    limits = arena.ours.ask("limits", seconds=QUICK_LIMIT_S if run.quick else LIMIT_S, timeout_s=TURN_TIMEOUT_S)
    figures.append(_against_limit(step_ms, limits))
    tables[:0] = [
        Table("speed, and how long a chain takes: median (lowest to highest) over turns", _SPEED_COLUMNS, speeds),
        Table("CPU, microseconds a step, by process group (the machine's other work is not in it)", _CPU_COLUMNS, times),
        Table("physical limits, in this run", ("what", "p50 ms", "p95 ms", "a second"), _limit_rows(limits)),
    ]
    return Outcome(figures, tables, [arena.durability])


def figures_of(level: int, turns: dict[str, list[Turn]]) -> list[Figure]:
    """Speed against each way to run the peer; times of a chain against its quicker one. `turns` by contender."""
    speed = {name: median(turn.steps_per_s for turn in found) for name, found in turns.items()}
    peers = [name for name in turns if name != OURS]
    best = max(peers, key=lambda name: speed[name])
    at = f"at {level} in flight"
    figures = [Figure(NAME, f"durable steps {at}", "steps/s", speed[OURS], speed[peer], peer) for peer in peers]
    for title, share in (("p50", 0.5), ("p95", 0.95)):
        ours, theirs = (median(percentile(turn.latencies_s, share) for turn in turns[name]) * 1e3 for name in (OURS, best))
        figures.append(Figure(NAME, f"chain {title} {at}", "ms", ours, theirs, best))
    return figures


def _against_limit(step_ms: float, limits: dict[str, list[float]]) -> Figure:
    floor_ms = (percentile(limits["call"], 0.5) + percentile(limits["commit"], 0.5)) * 1e3
    return Figure(NAME, "one step at 1 in flight", "ms", step_ms, floor_ms, "bare Ray call + bare commit")


_SPEED_COLUMNS = ("in flight", "contender", "turns", "steps/s", "chain p50 ms", "chain p95 ms", "chain p99 ms")
_GROUPS = ("supervisor", "agent", "driver", "Ray", "PostgreSQL", "peer")
_CPU_COLUMNS = ("in flight", "contender", *_GROUPS)


def _speed_row(level: int, name: str, turns: Sequence[Turn]) -> tuple[str, ...]:
    latency = [spread((percentile(turn.latencies_s, share) * 1e3 for turn in turns), 1) for share in (0.5, 0.95, 0.99)]
    return (str(level), name, str(len(turns)), spread(turn.steps_per_s for turn in turns), *latency)


def _cpu_row(level: int, name: str, turns: Sequence[Turn]) -> tuple[str, ...]:
    """Over all turns together. What others than the contender burn while it has its turn is their idling."""
    steps = sum(turn.steps for turn in turns)
    return (str(level), name, *(f"{sum(turn.cpu.get(group, 0.0) for turn in turns) / steps * 1e6:,.0f}" for group in _GROUPS))


def _limit_rows(limits: dict[str, list[float]]) -> list[tuple[str, ...]]:
    named = {
        "call": ("Ray call, empty actor, 200 bytes", 1, "calls"),
        "commit": ("commit of one row", 1, "rows"),
        "commit_500": ("commit of 500 rows", 500, "rows"),
    }
    rows: list[tuple[str, ...]] = []
    for key, (what, count, unit) in named.items():
        p50, p95 = percentile(limits[key], 0.5) * 1e3, percentile(limits[key], 0.95) * 1e3
        rows.append((what, f"{p50:.2f}", f"{p95:.2f}", f"{count * len(limits[key]) / sum(limits[key]):,.0f} {unit}"))
    return rows


def _process_count(peer: str) -> int:
    return int(peer.rpartition(", ")[2].split()[0])


async def _prepare(url: str) -> str:
    """Make the peer's database; what PostgreSQL says of its durability. Raises RuntimeError when commits are not durable."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {PEER_DATABASE}")
        said = {
            name: await connection.fetchval("SELECT current_setting($1)", name)
            for name in ("synchronous_commit", "fsync", "server_version")
        }
    finally:
        await connection.close()
    if said["synchronous_commit"] != "on" or said["fsync"] != "on":
        raise RuntimeError(f"this PostgreSQL does not make commits durable: {said}")
    return f"PostgreSQL {said['server_version']}, synchronous_commit on, fsync on, the same server for all"
