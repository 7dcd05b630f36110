"""What an application folder offers, found by a process that imports it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

from agentflow.errors import InvalidRequest
from agentflow.ports import CatalogueEntry

logger = logging.getLogger(__name__)

SCAN_TIMEOUT_S = 60.0


async def scan(app_dir: Path, code_hash: str) -> list[CatalogueEntry]:
    """Agents and tools of the folder. Modules that do not import are logged and left out. Raises InvalidRequest."""
    # user code runs here: it gets no secret of ours by way of the environment
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFLOW_", "RAY_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agentflow.actors.describe",
        str(app_dir),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), SCAN_TIMEOUT_S)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            raise InvalidRequest(f"importing the modules of {app_dir} did not end within {SCAN_TIMEOUT_S:.0f} s") from None
        raise
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        tail = errors.decode("utf-8", "replace")[-500:]
        raise InvalidRequest(f"the modules of {app_dir} could not be looked at (exit {process.returncode}): {tail}") from None
    for problem in found["problems"]:
        logger.warning("in the application folder: %s", problem)
    return [
        CatalogueEntry(
            entry["kind"], entry["name"], entry["uses"], entry["description"], entry["input_schema"], code_hash, entry.get("profile")
        )
        for entry in found["entries"]
    ]
