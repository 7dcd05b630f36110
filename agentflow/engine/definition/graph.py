"""Checks the graph that steps and their dependencies make: every name exists, and there is no cycle."""

from __future__ import annotations

from collections.abc import Mapping

from agentflow.engine.definition.problems import Problems, did_you_mean, shown
from agentflow.engine.definition.steps import ReadStep

_SHOWN_CYCLE = 50


def check_graph(steps: Mapping[str, ReadStep], problems: Problems, *, nameless: bool) -> None:
    """Report unknown names and cycles. `nameless`: some step could not be read, so a missing name may be that one's."""
    for step in steps.values():
        for name, place in step.edges.items():
            if name not in steps and not nameless:
                near = did_you_mean(name, (other for other in steps if other != step.definition.name))
                problems.add_at(*place, "unknown_step", f"there is no step `{shown(name)}`{near}")
    for cycle in _cycles(steps):
        first = steps[cycle[0]]
        names = [*cycle, cycle[0]]
        if len(cycle) == 1:
            message = f"step `{cycle[0]}` depends on itself"
        else:
            path = names if len(names) <= _SHOWN_CYCLE else [*names[: _SHOWN_CYCLE - 1], f"… {len(names) - _SHOWN_CYCLE} more …", names[-1]]
            message = f"these steps wait for each other: {' -> '.join(path)}"
        problems.add_at(*first.edges[names[1]], "cycle", message)


def _cycles(steps: Mapping[str, ReadStep]) -> list[list[str]]:
    """One cycle of each knot of steps, `a` depends on `b` depends on …, starting with its first step in the file.

    Steps that take part in no cycle are peeled off from both ends; what stays is walked until a step comes up again.
    """
    order = {name: place for place, name in enumerate(steps)}
    needs = {name: {edge for edge in step.edges if edge in steps} for name, step in steps.items()}
    left = _without_acyclic(needs)
    cycles: list[list[str]] = []
    while left:
        path: dict[str, int] = {}
        current = min(left, key=order.__getitem__)
        while current not in path:
            path[current] = len(path)
            current = min(needs[current] & left, key=order.__getitem__)
        cycle = [name for name, place in path.items() if place >= path[current]]
        start = cycle.index(min(cycle, key=order.__getitem__))
        cycles.append(cycle[start:] + cycle[:start])
        cut = {name: needs[name] & left - set(cycle) for name in left - set(cycle)}
        left = _without_acyclic(cut)
    return cycles


def _without_acyclic(needs: Mapping[str, set[str]]) -> set[str]:
    """The steps left after taking away, again and again, those that depend on nothing left and those that nothing left needs."""
    wanted_by: dict[str, set[str]] = {name: set() for name in needs}
    for name, edges in needs.items():
        for edge in edges:
            wanted_by[edge].add(name)
    left = set(needs)
    for forward, backward in ((needs, wanted_by), (wanted_by, needs)):
        open_edges = {name: len(forward[name] & left) for name in left}
        free = [name for name in left if not open_edges[name]]
        while free:
            name = free.pop()
            left.discard(name)
            for other in backward[name]:
                if other in left:
                    open_edges[other] -= 1
                    if not open_edges[other]:
                        free.append(other)
    return left
