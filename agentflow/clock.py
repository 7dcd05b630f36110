"""The one place that reads the wall clock; the engine itself is told the time."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Aware UTC, the only kind of datetime in this project."""
    return datetime.now(UTC)
