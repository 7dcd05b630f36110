"""Writes docs/openapi.json: `python -m agentflow.serve.openapi > docs/openapi.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

from agentflow.serve.app import build_app
from agentflow.serve.services import Services


def rendered() -> str:
    """The document as docs/openapi.json has it."""
    nothing: Any = None  # describing an application calls none of its services
    services = Services(nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    return json.dumps(build_app(services).openapi(), indent=2, sort_keys=True, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
