"""Percentiles and medians of measured samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of them do not exceed (nearest rank). Raises ValueError when there are none."""
    if not samples:
        raise ValueError("there are no samples")
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(samples: Iterable[float]) -> float:
    """The middle sample; the mean of the two middle ones when their number is even. Raises ValueError when there are none."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("there are no samples")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def spread(samples: Iterable[float], digits: int = 0) -> str:
    """`median (lowest to highest)`, for people."""
    ordered = sorted(samples)
    return f"{median(ordered):,.{digits}f} ({ordered[0]:,.{digits}f} to {ordered[-1]:,.{digits}f})"
