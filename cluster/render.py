"""What the command line writes: tables, JSON, values and times as text. Knows nothing of where they come from."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

CLIP_CHARS = 400
"""Longer texts inside a shown value are cut; `--json` and `--output-dir` give all of it."""


def write_json(value: Any) -> None:
    """One JSON document on stdout, ASCII only: it survives any terminal, pipe and locale."""
    print(json.dumps(value, indent=2, default=_json_default))


def write_json_line(value: Any) -> None:
    print(json.dumps(value, separators=(",", ":"), default=_json_default), flush=True)


def _json_default(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    raise TypeError(f"not a JSON value: {type(value).__name__}")


def clean(text: str) -> str:
    """Text that others wrote, without characters that would move the cursor or change the terminal; newline and tab stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, limit: int = 120) -> str:
    """The text's first line, cut at `limit` characters."""
    first = clean(text.strip().partition("\n")[0])
    return first if len(first) <= limit else first[: limit - 1] + "…"


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """Columns in line, never cut; headers in bold on a terminal. `empty` is said on stderr when there are no rows."""
    cells = [["-" if cell is None or cell == "" else clean(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    if not cells:
        print(empty, file=sys.stderr)
        return
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    widths[-1] = 0
    head = "  ".join(header.ljust(width) for header, width in zip(headers, widths, strict=True))
    print(f"\x1b[1m{head}\x1b[0m" if sys.stdout.isatty() else head)
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def pairs(values: Mapping[str, Any]) -> None:
    """`name   value` lines; what is None or empty is left out."""
    shown = {name: value for name, value in values.items() if value is not None and value != ""}
    width = max((len(name) for name in shown), default=0)
    for name, value in shown.items():
        lines = clean(str(value)).split("\n")
        print(f"{name.ljust(width)}  {lines[0]}")
        for line in lines[1:]:
            print(f"{' ' * width}  {line}")


def value_text(value: Any) -> str:
    """A JSON value to read: a text as it is, anything else indented, long texts inside cut."""
    if isinstance(value, str):
        return clean(clipped(value))
    return clean(json.dumps(clipped(value), indent=2, ensure_ascii=False))


def clipped(value: Any) -> Any:
    if isinstance(value, str) and len(value) > CLIP_CHARS:
        return f"{value[:60]}… ({len(value):,} characters)"
    if isinstance(value, list):
        return [clipped(item) for item in value]
    if isinstance(value, dict):
        return {key: clipped(item) for key, item in value.items()}
    return value


def is_clipped(value: Any) -> bool:
    return bool(clipped(value) != value)


def time_text(at: datetime | None) -> str:
    """Local time to the second."""
    return "" if at is None else at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def seconds_text(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def counted(count: int, noun: str) -> str:
    """`1 file`, `1,200 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
