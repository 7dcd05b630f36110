"""JSON values as bytes: what users' inputs and outputs are everywhere between processes and in the journal.

A value is encoded once, where it is made, and travels and is stored as those bytes. Text that is not Unicode (lone
surrogates) and NUL are legal JSON escapes, so they are kept, not rejected: the fast codec refuses them, the slow one
of the standard library writes them as ``\\uXXXX``.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

NULL = b"null"
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


def encode_value(value: Any) -> bytes:
    """JSON of `value`, ASCII-safe where it must be. Raises TypeError that names the first thing JSON cannot hold."""
    try:
        if _plain(value):
            return _encoder.encode(value)
    except (UnicodeEncodeError, RecursionError):
        pass
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")
    except (ValueError, RecursionError) as error:
        raise TypeError(f"not a JSON value: {error}") from None


def decode_value(body: bytes) -> Any:
    """The value that `body` encodes. Raises ValueError when it is not JSON."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None


def _plain(value: Any, depth: int = 0) -> bool:
    """True when msgspec writes `value` exactly as JSON would; raises TypeError for what JSON cannot hold.

    msgspec by itself also takes sets, datetimes, dataclasses and NaN, and would give back something else.
    """
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return True
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        if not math.isfinite(value):
            raise TypeError(f"not a JSON value: {value!r}")
        return True
    if depth > 200:
        return False
    if kind is list or kind is tuple:
        return all(_plain(item, depth + 1) for item in value)
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise TypeError(f"not a JSON value: an object key of type {type(key).__name__} ({key!r})")
        return all(_plain(item, depth + 1) for item in value.values())
    if isinstance(value, (str, int, float, list, dict)):
        return False
    raise TypeError(f"not a JSON value: an object of type {kind.__name__}")
