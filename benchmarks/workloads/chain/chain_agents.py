"""The application folder of `durable_steps`: one agent that adds one."""

from __future__ import annotations

from agentflow import Agent, Context


class Add(Agent):
    """Returns its input + 1."""

    async def run(self, context: Context, input: int) -> int:
        return input + 1
