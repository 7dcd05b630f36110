"""The load of the throughput benchmarks: so many chains in flight, each begun when one ends. The same code drives every contender."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

Chain = Callable[[int], Awaitable[int]]
"""Runs one chain for an input; returns its result when that is durable."""
STEPS = 10
"""Of a chain; each returns its input + 1."""


async def run(chain: Chain, *, in_flight: int, seconds: float, seed: int) -> dict[str, Any]:
    """Keep `in_flight` chains going, begin no new one after `seconds`, let all end.

    Returns `chains`, `seconds` (to the end of the last one) and `latencies_s`. Raises AssertionError for a wrong result.
    """
    numbers = random.Random(seed)
    latencies: list[float] = []
    began = time.perf_counter()

    async def one_after_another() -> None:
        while True:
            given = numbers.randrange(1_000_000)
            start = time.perf_counter()
            result = await chain(given)
            latencies.append(time.perf_counter() - start)
            if result != given + STEPS:
                raise AssertionError(f"a chain of {STEPS} steps made {result} of {given}")
            if time.perf_counter() - began >= seconds:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_another())
    return {"chains": len(latencies), "seconds": time.perf_counter() - began, "latencies_s": [round(item, 6) for item in latencies]}
