"""CPU time of groups of processes: where the time goes while a contender has its turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil

from agentflow.cluster import ray_head
from benchmarks.place import Place

Seconds = Mapping[int, float]


def by_process(groups: Mapping[str, Iterable[psutil.Process]]) -> dict[str, Seconds]:
    """CPU seconds, user and system, so far, by pid, for each group."""
    found: dict[str, Seconds] = {}
    for name, processes in groups.items():
        seconds: dict[int, float] = {}
        for process in processes:
            with suppress(psutil.Error):
                times = process.cpu_times()
                seconds[process.pid] = times.user + times.system
        found[name] = seconds
    return found


def spent(before: Mapping[str, Seconds], after: Mapping[str, Seconds]) -> dict[str, float]:
    """CPU seconds by group between the two."""
    return {name: sum(seconds - before.get(name, {}).get(pid, 0.0) for pid, seconds in found.items()) for name, found in after.items()}


def groups_of(place: Place, *, driver: int, peers: Iterable[int]) -> dict[str, list[psutil.Process]]:
    """The processes of a place, by what they are."""
    peers = set(peers)
    groups: dict[str, list[psutil.Process]] = {"supervisor": [], "agent": [], "driver": [], "Ray": [], "peer": []}
    for process in ray_head.processes(place.home):
        with suppress(psutil.Error):
            title = process.cmdline()[:1]
            kind = "driver" if process.pid == driver else "peer" if process.pid in peers else _kind(title[0] if title else "")
            groups[kind].append(process)
    if (postmaster := place.postgres.pid) is not None:
        groups["PostgreSQL"] = [psutil.Process(postmaster), *psutil.Process(postmaster).children()]
    return groups


def _kind(title: str) -> str:
    if title.startswith("ray::SupervisorActor"):
        return "supervisor"
    return "agent" if title.startswith("ray::AgentActor") else "Ray"
