"""What a workflow is: steps, agents, config. Made by `engine.definition`, which validates; never changed after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delay before attempt n + 1: `min(maximum, initial * multiplier ** (n - 1))`, then up to `jitter` of it less."""

    initial: timedelta = timedelta(seconds=1)
    multiplier: float = 2.0
    maximum: timedelta = timedelta(seconds=60)
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried. Process deaths are not attempts (design 6)."""

    max_attempts: int = 1
    backoff: Backoff = Backoff()
    retry_on: tuple[str, ...] = ()
    """Error codes that are tried again; empty means every error."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one actor of the agent reserves in Ray. Ray's memory reserves, it enforces nothing."""

    cpu: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class AgentBinding:
    """A name used by steps, and the import path `module:Class` it stands for."""

    name: str
    uses: str
    resources: Resources = Resources()


@dataclass(frozen=True, slots=True)
class StepDefinition:
    """One step. Exactly one of `agent` (a binding's name) and `tool` (import path `module:function`) is set.

    `input`, `session` are templates: JSON in which a string may hold `${ expression }`. `when`, `map` are expressions.
    """

    name: str
    agent: str | None = None
    tool: str | None = None
    depends_on: tuple[str, ...] = ()
    when: str | None = None
    map: str | None = None
    input: Any = None
    session: Any = None
    retry: Retry = Retry()
    timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class WorkflowConfig:
    timeout: timedelta | None = None
    """From start to end of an execution, waiting included."""
    concurrency: int = 64
    """Steps in flight at once in one execution."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A validated definition. `source` is the text it was read from, stored as it came."""

    name: str
    version: str
    steps: tuple[StepDefinition, ...]
    agents: tuple[AgentBinding, ...] = ()
    config: WorkflowConfig = WorkflowConfig()
    input_schema: Mapping[str, Any] | None = None
    description: str = ""
    source: str = field(default="", repr=False)
    output: Any = None
    """Template of the result; None: the outputs of the steps that no other depends on."""
    _by_name: Mapping[str, StepDefinition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {step.name: step for step in self.steps})

    def step(self, name: str) -> StepDefinition:
        """The step of that name; KeyError if there is none."""
        return self._by_name[name]

    def agent(self, name: str) -> AgentBinding:
        """The binding of that name; KeyError if there is none."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class DefinitionError:
    """One thing wrong with a definition. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message} [{self.code}]"
