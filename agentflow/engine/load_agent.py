"""Imports an agent class by its path, from the application folder or anything importable."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from agentflow.domain.agent import Agent
from agentflow.errors import InvalidRequest


def load_agent(uses: str, *, app_dir: Path | None) -> Agent:
    """An instance of the class at `module:Class`. The process is that agent's for life, so the module is simply imported.

    Raises InvalidRequest that says what is wrong: no such module, it does not import, no such class, not an Agent, it takes arguments.
    """
    module_name, _, class_name = uses.partition(":")
    if app_dir is not None and str(app_dir) not in sys.path:
        sys.path.insert(0, str(app_dir))
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        where = f" (application folder: {app_dir})" if app_dir is not None else ""
        raise InvalidRequest(f"agent {uses}: module {module_name!r} does not import{where}: {type(error).__name__}: {error}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type) or not issubclass(cls, Agent):
        what = "has no such class" if cls is None else "is not a subclass of agentflow.Agent"
        raise InvalidRequest(f"agent {uses}: {class_name!r} {what} in {module_name}")
    try:
        return cls()
    except (Exception, SystemExit) as error:
        raise InvalidRequest(f"agent {uses}: {class_name}() failed: {type(error).__name__}: {error}") from error
