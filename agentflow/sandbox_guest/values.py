"""JSON values as the guest sends them: the same rules as agentflow.codec, with the standard library alone."""

from __future__ import annotations

import json
from typing import Any


def encode(value: Any) -> bytes:
    """ASCII JSON of `value`; NUL and lone surrogates become escapes. Raises TypeError for what JSON cannot hold.

    `json.dumps` alone would turn other keys into text and write NaN; the same tool must not answer otherwise here than inline.
    """
    try:
        _check(value)
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    except RecursionError:
        raise TypeError("not a JSON value: nested too deep, or it contains itself") from None
    except ValueError as error:
        raise TypeError(f"not a JSON value: {error}") from None


def _check(value: Any) -> None:
    if value is None or isinstance(value, (str, bool, int, float)):
        return
    if isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"not a JSON value: an object key of type {type(key).__name__} ({key!r:.100})")
            _check(item)
        return
    raise TypeError(f"not a JSON value: an object of type {type(value).__name__}")
