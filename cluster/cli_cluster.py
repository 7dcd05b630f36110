"""`agentflow up`, `down`, `status` and `doctor`: the cluster on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentflow.cluster import render
from agentflow.cluster.cli_outcome import ExitCode
from agentflow.cluster.cli_session import Json, session_of


def up() -> None: ...
def down() -> None: ...
def status() -> None: ...
def doctor() -> None: ...
