"""Durations (`1h30m`) and sizes (`512MiB`) as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import pairwise

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART.pattern})+")
_BYTES = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([KMGT]i?B|B|)")
LONGEST_DURATION = timedelta(days=3_650)
LARGEST_SIZE_BYTES = 1 << 50


def parse_duration(text: str) -> timedelta:
    """`500ms`, `30s`, `5m`, `1h30m`, `1.5h`, `2d`: units from large to small, each once. Raises ValueError that says how to write one."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"`{text[:40]}` is not a duration: write for example 500ms, 30s, 5m or 1h30m")
    parts = _DURATION_PART.findall(text)
    units = [_SECONDS[unit] for _, unit in parts]
    if any(later >= earlier for earlier, later in pairwise(units)):
        raise ValueError(f"`{text[:40]}` is not a duration: each unit once, the largest first, as in 1h30m")
    total = timedelta(milliseconds=sum(round(float(number) * _SECONDS[unit] * 1000) for number, unit in parts))
    if total > LONGEST_DURATION:
        raise ValueError(f"`{text[:40]}` is longer than {LONGEST_DURATION.days} days")
    return total


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `1GiB`, `1.5GB`, `4096`. Raises ValueError that says how to write one."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text[:40]}` is not a size: write for example 512MiB or 1GiB")
    size = round(float(match[1]) * _BYTES[match[2]])
    if size > LARGEST_SIZE_BYTES:
        raise ValueError(f"`{text[:40]}` is larger than 1024TiB")
    return size
