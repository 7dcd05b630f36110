"""Contenders take turns, so that what changes on the machine meanwhile meets all of them: A B C, B C A, C A B."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def in_turns(contenders: Sequence[str], rounds: int, measure: Callable[[str], T]) -> dict[str, list[T]]:
    """`measure(contender)` for each, `rounds` times; who begins changes with every round."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for name in (*contenders[first:], *contenders[:first]):
            results[name].append(measure(name))
    return results
