"""Calls a user's plain function in a thread of a pool, so that whatever it raises can come back to the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(function: Callable[[], T]) -> T:
    """What `function` returns or raises. A StopIteration cannot go through a future: whoever waits for it would wait for ever."""
    try:
        return function()
    except StopIteration as error:
        raise RuntimeError(f"StopIteration: {error}") from error
