"""Agents for the tests of survival and of sessions."""

import asyncio
import os
from pathlib import Path

from agentflow import Agent
from trials.tools import double


class Add(Agent):
    """Adds one."""

    async def run(self, context, input):
        return input + 1


class Counts(Agent):
    """Counts a session's messages."""

    async def run(self, context, input):
        context.state["messages"] = context.state.get("messages", 0) + 1
        return {"messages": context.state["messages"], "said": input}


class Marks(Agent):
    """Writes a line to a file when it begins, then waits until another file is there: tests see how often it ran."""

    async def run(self, context, input):
        with open(input["log"], "a") as log:
            log.write(f"{context.step} {context.attempt} {os.getpid()}\n")
        while not Path(input["gate"]).exists():
            await asyncio.sleep(0.02)
        return os.getpid()


class TwoEffects(Agent):
    """A tool call, then a wait for a file, then another tool call."""

    async def run(self, context, input):
        first = await context.tool(double, value=input["value"])
        with open(input["log"], "a") as log:
            log.write(f"between {os.getpid()}\n")
        while not Path(input["gate"]).exists():
            await asyncio.sleep(0.02)
        return await context.tool(double, value=first)


class Blocking(Agent):
    """A plain function: runs in a thread and calls a tool from there."""

    def run(self, context, input):
        return context.tool(double, value=input)


class Dies(Agent):
    """Kills its own process."""

    async def run(self, context, input):
        os.kill(os.getpid(), 9)
