"""The child's side of contender.py: a loop that answers questions, one at a time, until its input ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Handler = Callable[..., Awaitable[Any]]


def take_stdout() -> int:
    """A descriptor for answers alone; whatever else prints goes to stderr. Call it before anything is imported that prints."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


async def answer(handlers: Mapping[str, Handler], answers: int) -> None:
    """Call the handler that each line names, with its members as arguments, and write what it returns."""
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        question = json.loads(line)
        try:
            result = {"ok": await handlers[question.pop("do")](**question)}
        except Exception as error:  # noqa: BLE001 the top of this process: the parent shows it
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {error}"}
        os.write(answers, json.dumps(result).encode() + b"\n")
