"""What users write: the `@tool` decorator, which gives a typed function a schema and a profile."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, get_type_hints, overload

from agentflow.domain.sandbox import Isolation, Profile

MOUNTS_A_CALL = 10
"""Folders that one call may mount: /mnt/0 to /mnt/9 in its sandbox."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(eq=False)
class Tool(Generic[P, R]):
    """A tool: the function, where it runs, and which arguments are host folders.

    Calling it calls the plain function here and now (tests do). Agents go through `context.tool`.
    """

    function: Callable[P, R]
    name: str
    description: str
    profile: Profile
    mounts: tuple[str, ...]

    def __post_init__(self) -> None:
        update_wrapper(self, self.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    @property
    def uses(self) -> str:
        """Import path, `module:function`."""
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def input_schema(self) -> Mapping[str, Any]:
        """JSON Schema of the arguments, from the annotations. Raises TypeError for an annotation that JSON cannot carry."""
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

        hints = get_type_hints(self.function)
        properties: dict[str, Any] = {}
        required = []
        for parameter in inspect.signature(self.function).parameters.values():
            try:
                schema = TypeAdapter(hints.get(parameter.name, Any)).json_schema()
            except (PydanticSchemaGenerationError, PydanticUserError) as error:
                raise TypeError(f"tool {self.name}: argument {parameter.name}: {error}") from None
            if parameter.name in self.mounts:
                schema["format"] = "folder"
            if parameter.default is inspect.Parameter.empty:
                required.append(parameter.name)
            else:
                schema["default"] = parameter.default
            properties[parameter.name] = schema
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...


@overload
def tool(
    *,
    name: str = "",
    description: str = "",
    isolation: str = "gvisor",
    mounts: tuple[str, ...] = (),
    wall_s: float = ...,
    memory_bytes: int = ...,
    address_space_bytes: int = ...,
    cpu: float = ...,
    processes: int = ...,
    disk_bytes: int = ...,
    output_bytes: int = ...,
    reply_bytes: int = ...,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...


def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a tool. Limits are those of `Profile`; what is not said has its default.

    `isolation`: `gvisor` (default: a sandbox of its own for each call, no network) or `inline` (in the tool actor: only
    for code you trust as much as AgentFlow). `mounts` names the arguments that are host folders: the sandbox sees
    exactly these, read-only, and the function gets the path under which it sees them. The module of a sandboxed
    function may import the standard library and `agentflow` (for this decorator), nothing else.
    """
    if function is not None:
        return _make(function, {})
    return lambda function: _make(function, options)


def _make(function: Callable[..., Any], options: dict[str, Any]) -> Tool[Any, Any]:
    chosen = dict(options)
    name = chosen.pop("name", "") or function.__name__
    description = chosen.pop("description", "") or inspect.getdoc(function) or ""
    mounts = tuple(chosen.pop("mounts", ()))
    isolation = Isolation(chosen.pop("isolation", "gvisor"))
    if isolation is Isolation.SUBPROCESS:
        raise ValueError(f"tool {name}: isolation 'subprocess' is a setting of the cluster (unsafe_subprocess_tools), not of a tool")
    parameters = inspect.signature(function).parameters
    if unknown := [argument for argument in mounts if argument not in parameters]:
        raise ValueError(f"tool {name}: mounts names {unknown[0]!r}, which is not one of its arguments ({', '.join(parameters) or 'none'})")
    if len(mounts) > MOUNTS_A_CALL:
        raise ValueError(f"tool {name}: mounts names {len(mounts)} arguments; at most {MOUNTS_A_CALL} folders can be mounted in one call")
    if variadic := [p.name for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)]:
        raise ValueError(f"tool {name}: argument {variadic[0]!r} cannot be passed by name; tools are called with named arguments")
    return Tool(function, name, description.partition("\n\n")[0], Profile(isolation=isolation, **chosen), mounts)
