"""A workflow definition in a user's hands: its YAML text, from a file or a string, with a check that needs no cluster."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from agentflow.errors import InvalidRequest

if TYPE_CHECKING:
    from agentflow.domain.workflow import Workflow as Definition

LOADER = "agentflow.engine.definition"
"""Loaded by name, and only when somebody asks for the definition: the client itself knows no engine (design 2)."""


@dataclass(frozen=True)
class Workflow:
    """`flow.run(Workflow.from_file("workflow.yaml"))`. `file` is the name that errors show."""

    source: str = field(repr=False)
    file: str = "workflow.yaml"

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Workflow:
        """Raises InvalidRequest when the file cannot be read as text. Its content is checked when it is used, or by `definition`."""
        try:
            return cls(Path(path).read_text("utf-8"), os.fspath(path))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"The workflow file {os.fspath(path)!r} cannot be read: {error}") from None

    @cached_property
    def definition(self) -> Definition:
        """The validated definition. Raises WorkflowInvalid with every error, located."""
        loaded: Definition = importlib.import_module(LOADER).load_workflow(self.source, file=self.file)
        return loaded

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def version(self) -> str:
        return self.definition.version
