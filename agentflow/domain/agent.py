"""What users write: an agent class, and the context that its code gets."""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any, ClassVar, Protocol


class Context(Protocol):
    """What an agent's code may use inside its step. Every outward call through it is journaled.

    `state` is the session's state: a JSON object that is stored together with the step's result, or not at all. A step
    without a session has an empty one that is thrown away. `attempt` counts from 1.
    """

    execution_id: str
    workflow: str
    step: str
    attempt: int
    session_id: str | None
    tenant_id: str
    state: MutableMapping[str, Any]

    async def tool(self, function: Callable[..., Any] | str, /, **arguments: Any) -> Any:
        """Call a tool (a `@tool` function or its import path) where its profile says, and return its JSON result.

        A recorded call never runs again: after a crash or a retry the step gets what the journal holds. A failed call is
        recorded when the code goes on after it; if it ends the attempt, the next attempt calls again. Raises StepFailed,
        whose `code` tells how it ended (`sandbox_timeout`, `sandbox_oom`, the exception's own name, …).
        """

    def log(self, message: str, /, **fields: Any) -> None:
        """One line in the agent's JSON log, with execution, step and attempt."""

    @property
    def cancelled(self) -> bool:
        """True once the execution was cancelled; synchronous code should look and return."""

    @property
    def started_at(self) -> datetime:
        """When this attempt began here, aware UTC; another value when the step runs again."""


class Agent:
    """One agent: subclass it and write `run`, as a coroutine or a plain function.

    ::

        class Greeter(Agent):
            async def run(self, context, input):
                context.state["greeted"] = context.state.get("greeted", 0) + 1
                return f"Hello, {input['name']}"

    An instance lives as long as its actor and serves many steps, several at once: keep nothing in `self` that belongs
    to one of them. `run`'s input and result are JSON values. An exception fails the attempt; its class's name in
    snake_case is the code that `retryOn` matches.
    """

    name: ClassVar[str] = ""
    """How the API calls it; the class's name in kebab-case when empty."""
    description: ClassVar[str] = ""
    """Shown by `agentflow agents`; the docstring's first line when empty."""

    def run(self, context: Context, input: Any) -> Any:
        """The step. May be `async def`."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    @classmethod
    def public_name(cls) -> str:
        return cls.name or kebab_case(cls.__name__)

    @classmethod
    def public_description(cls) -> str:
        return cls.description or (cls.__dict__.get("__doc__") or "").strip().partition("\n")[0]


def kebab_case(name: str) -> str:
    """`HTTPScout` and `RankAgent` become `http-scout` and `rank-agent`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower().replace("_", "-")


def snake_case(name: str) -> str:
    """`ZeroDivisionError` becomes `zero_division_error`."""
    return kebab_case(name).replace("-", "_")
