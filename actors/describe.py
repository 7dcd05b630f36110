"""`python -m agentflow.actors.describe FOLDER`: imports an application folder's modules and prints what agents and tools they define.

A process of its own, so that a module that hangs, exits or breaks takes nothing with it, and edited code is always seen.
Prints one JSON object {entries: […], problems: […]} as the last line of stdout.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from agentflow.domain.agent import Agent
from agentflow.domain.tool import Tool
from agentflow.engine.tool_source import SKIPPED_FOLDERS

MODULES = 500
"""More modules than this that use agentflow are not looked at; the rest is named among the problems."""


def modules_of(app_dir: Path) -> list[str]:
    """Importable modules below `app_dir` whose text imports agentflow, by name. None of them is run for this."""
    found = []
    for folder, folders, files in os.walk(app_dir):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name.isidentifier())
        for name in sorted(files):
            path = Path(folder, name)
            if name.endswith(".py") and _uses_agentflow(path):
                parts = path.relative_to(app_dir).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                if parts and all(part.isidentifier() for part in parts):
                    found.append(".".join(parts))
    return found


def _uses_agentflow(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return False
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        if any(name.partition(".")[0] == "agentflow" for name in names):
            return True
    return False


def describe(app_dir: Path) -> dict[str, Any]:
    """Runs every module of the folder that uses agentflow."""
    sys.path.insert(0, str(app_dir))
    entries: list[dict[str, Any]] = []
    problems: list[str] = []
    modules = modules_of(app_dir)
    for name in modules[:MODULES]:
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 whatever a module does at import, sys.exit included, is that module's problem
            problems.append(f"{name}: {type(error).__name__}: {error}")
            continue
        for value in list(vars(module).values()):
            if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == name:
                entries.append(_agent(value))
            elif isinstance(value, Tool) and value.function.__module__ == name:
                _add_tool(value, entries, problems)
    if len(modules) > MODULES:
        problems.append(f"{len(modules) - MODULES} modules were not looked at: the limit is {MODULES}")
    return {"entries": entries, "problems": problems}


def _agent(cls: type[Agent]) -> dict[str, Any]:
    uses = f"{cls.__module__}:{cls.__qualname__}"
    return {"kind": "agent", "name": cls.public_name(), "uses": uses, "description": cls.public_description(), "input_schema": None}


def _add_tool(tool: Tool[Any, Any], entries: list[dict[str, Any]], problems: list[str]) -> None:
    try:
        schema = tool.input_schema()
    except (TypeError, NameError) as error:
        problems.append(f"{tool.uses}: {error}")
        return
    profile = {**dataclasses.asdict(tool.profile), "mounts": list(tool.mounts)}
    about = {"name": tool.name, "uses": tool.uses, "description": tool.description}
    entries.append({"kind": "tool", **about, "input_schema": schema, "profile": profile})


if __name__ == "__main__":
    out = os.dup(1)
    os.dup2(2, 1)  # what modules print at import is not our answer
    os.write(out, b"\n" + json.dumps(describe(Path(sys.argv[1]).resolve())).encode() + b"\n")
    os._exit(0)  # a module's threads must not keep this process
