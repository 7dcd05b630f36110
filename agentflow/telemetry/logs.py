"""JSON logs: one object a line on stderr, with tenant, execution, step and request where they are known.

Write `logger.info("step ended", extra={"execution_id": …, "step": …})`; only the fields named here get through, so that
no payload or secret slips into a log by way of `extra`. What an agent's own code logs is under `fields`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

LOG_FIELDS = (
    "tenant_id",
    "execution_id",
    "step",
    "attempt",
    "dispatch_id",
    "workflow",
    "uses",
    "worker",
    "shard",
    "request_id",
    "method",
    "path",
    "status",
    "duration_s",
    "trace_id",
    "code",
)
"""The extra fields that a log line may carry."""


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON; a line break in a message stays inside its string."""

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._process:
            line["process"] = self._process
        for name in LOG_FIELDS:
            if name in record.__dict__:
                line[name] = record.__dict__[name]
        if "fields" in record.__dict__:
            line["fields"] = record.__dict__["fields"]
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def log_as_json(level: str = "INFO", *, process: str = "", stream: TextIO | None = None) -> None:
    """Make the `agentflow` loggers write JSON to `stream` (stderr). May be called again; it replaces its own handler.

    Only the `agentflow` tree is touched: the root logger belongs to the program we run in.
    """
    logger = logging.getLogger("agentflow")
    for handler in [handler for handler in logger.handlers if isinstance(handler.formatter, JsonFormatter)]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter(process))
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
