"""The module that tools see as `agentflow` inside a sandbox: enough to load a module that defines tools and agents.

Decorators give the function back unchanged. Other names are there as stand-ins, so that imports, annotations, base classes
and `except` clauses work; what they would do needs the cluster, which a sandbox cannot reach, and says so.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

_F = TypeVar("_F")
_NAME = "agentflow"


def tool(function: Any = None, **options: Any) -> Any:
    """`@tool` and `@tool(...)`: the function itself. Its options were read outside, where the call was made."""
    return _unchanged if function is None else function


def _unchanged(function: _F) -> _F:
    return function


class Agent:
    """A base for agent classes; they can be defined here, not run."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()


class StandIn(Exception):
    """Any other class of AgentFlow. It is an exception so that `raise` and `except` work with AgentFlow's errors."""

    def __init__(self, message: str = "", *rest: Any, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


def stand_in(name: str) -> Any:
    """What `agentflow.<name>` is inside a sandbox. Raises AttributeError for names that are not public."""
    if name.startswith("_"):
        raise AttributeError(f"agentflow has no attribute {name!r} inside a sandbox")
    if name[0].isupper():
        return type(name, (StandIn,), {"__module__": _NAME})
    return _refusal(name)


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(f"agentflow.{name} does not work inside a sandboxed tool: a sandbox has no way to the cluster")

    refuse.__name__ = refuse.__qualname__ = name
    return refuse


class _Shim(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        made = stand_in(name)
        setattr(self, name, made)  # the same object each time, or `except` would not find its class
        return made


class _Submodules:
    """Finds `agentflow.<anything>`: importing a part of AgentFlow gives a module of stand-ins."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(_NAME + "."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Shim(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: stand-ins are made when they are asked for."""


def install() -> None:
    """Make `import agentflow` give the shim."""
    shim = _Shim(_NAME, __doc__)
    shim.__path__ = []
    shim.tool = tool  # type: ignore[attr-defined]
    shim.Agent = Agent  # type: ignore[attr-defined]
    sys.modules[_NAME] = shim
    sys.meta_path.append(_Submodules())
