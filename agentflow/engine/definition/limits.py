"""How large a workflow definition may be; each limit has a name that its error message says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one definition. They protect the server that reads it, since anybody with a key may send one."""

    source_bytes: int = 1 << 20
    steps: int = 10_000
    """An execution ends at 50,000 events, and a step takes at least two."""
    depth: int = 64
    """How deep mappings and lists may nest."""
    errors: int = 100
    """How many errors are reported; the rest is only counted."""


DEFAULT_LIMITS = Limits()
