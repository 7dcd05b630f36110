"""Inline SVG charts. Widths are percentages, so that text keeps its size on a phone; colours are classes of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from repository_review.score import WEIGHTS, band

LABELS = {
    "complexity": "Complexity",
    "risk": "Risky calls",
    "documentation": "Missing docs",
    "open_ends": "Open ends",
    "broken": "Unreadable files",
}
ROW = 46
BARS = 12
MAP_WIDTH, MAP_HEIGHT = 450.0, 530.0
"""Pixels on a wide screen; on a phone the map is narrower and as high."""


def bars(ranking: Sequence[Mapping[str, Any]]) -> str:
    """Stacked bars of the highest scores: a row holds the name, the score, and what it is made of."""
    rows = ranking[:BARS]
    scale = max([40.0, *(entry["score"] for entry in rows)]) / 100
    parts = []
    for index, entry in enumerate(rows):
        top = index * ROW
        parts.append(f'<text class="name" x="0" y="{top + 16}">{escape(_label(entry["name"]))}</text>')
        parts.append(f'<text class="value" x="100%" y="{top + 16}" text-anchor="end">{entry["score"]:.1f}</text>')
        parts.append(f'<rect class="track" x="0" y="{top + 24}" width="100%" height="10" rx="5"/>')
        left = 0.0
        for part in WEIGHTS:
            width = entry["points"][part] / scale
            if width > 0:
                tip = f"{entry['name']}: {LABELS[part]} {entry['points'][part]:.1f} of {WEIGHTS[part]}"
                parts.append(
                    f'<rect class="part {part}" x="{left:.2f}%" y="{top + 24}" width="{width:.2f}%" height="10">'
                    f"<title>{escape(tip)}</title></rect>"
                )
            left += width
    spoken = "; ".join(f"{entry['name']} {entry['score']:.1f}" for entry in rows)
    return (
        f'<svg class="bars" role="img" aria-labelledby="bars-title bars-text" width="100%" height="{len(rows) * ROW - 8}">'
        f'<title id="bars-title">Attention score of the first {len(rows)} packages</title><desc id="bars-text">{escape(spoken)}.</desc>'
        f"{''.join(parts)}</svg>"
    )


def _label(name: str) -> str:
    """A name that leaves room for the score beside it, also on a phone; the end of a path says most."""
    return name if len(name) <= 32 else f"…{name[-31:]}"


def legend(ranking: Sequence[Mapping[str, Any]]) -> str:
    """The colours that `bars` uses for these packages."""
    used = [part for part in LABELS if any(entry["points"][part] > 0 for entry in ranking[:BARS])]
    items = "".join(f'<li><span class="key {part}"></span>{LABELS[part]}</li>' for part in used)
    return f'<ul class="legend">{items}</ul>'


def treemap(ranking: Sequence[Mapping[str, Any]]) -> str:
    """Every package as a rectangle: its area is its code lines, its colour its band."""
    cells = [entry for entry in ranking if entry["code_lines"] > 0]
    cells.sort(key=lambda entry: -entry["code_lines"])
    parts = []
    for entry, (x, y, width, height) in zip(
        cells, _squarified([entry["code_lines"] for entry in cells], MAP_WIDTH, MAP_HEIGHT), strict=True
    ):
        tip = f"{entry['name']}: {entry['code_lines']:,} code lines, score {entry['score']:.1f}"
        text = ""
        fits = next((name for name, wide in (("", 7.6), (" small", 6.3)) if width > 14 + wide * len(entry["name"])), None)
        if height > 28 and fits is not None:
            text = f'<text class="cell-name{fits}" x="8" y="20">{escape(entry["name"])}</text>'
            if height > 46:
                text += f'<text class="cell-value" x="8" y="37">{entry["code_lines"]:,}</text>'
        parts.append(
            f'<svg x="{100 * x / MAP_WIDTH:.3f}%" y="{y:.2f}" width="{100 * width / MAP_WIDTH:.3f}%" height="{height:.2f}">'
            f"<title>{escape(tip)}</title>"
            f'<rect class="cell {band(entry["score"])}" width="100%" height="100%" rx="4"/>{text}</svg>'
        )
    spoken = "; ".join(f"{entry['name']} {entry['code_lines']:,} lines, {band(entry['score'])}" for entry in cells[:BARS])
    return (
        '<svg class="treemap" role="img" aria-labelledby="map-title map-text" width="100%" height="530">'
        f'<title id="map-title">Code lines of each package</title><desc id="map-text">{escape(spoken)}.</desc>{"".join(parts)}</svg>'
    )


def _squarified(values: Sequence[float], width: float, height: float) -> list[tuple[float, float, float, float]]:
    """Rectangles (x, y, width, height) with areas like `values` (descending), near to squares (Bruls, Huizing, van Wijk 2000)."""
    placed: list[tuple[float, float, float, float]] = []
    unit = width * height / (sum(values) or 1)
    x = y = 0.0
    areas = [value * unit for value in values]
    while areas:
        side = min(width, height)
        row: list[float] = []
        while areas and (not row or _worst([*row, areas[0]], side) <= _worst(row, side)):
            row.append(areas.pop(0))
        thick = sum(row) / side if side else 0.0
        offset = 0.0
        for area in row:
            length = area / thick if thick else 0.0
            placed.append((x, y + offset, thick, length) if height <= width else (x + offset, y, length, thick))
            offset += length
        if height <= width:
            x, width = x + thick, max(0.0, width - thick)
        else:
            y, height = y + thick, max(0.0, height - thick)
    return placed


def _worst(row: Sequence[float], side: float) -> float:
    """The worst aspect ratio in a row of areas laid along `side`."""
    whole = sum(row)
    return max(side * side * max(row) / (whole * whole), whole * whole / (side * side * min(row))) if whole and side else math.inf


def ring(points: float) -> str:
    """A dial for one score of 100."""
    around = 2 * math.pi * 52
    return (
        f'<svg class="ring {band(points)}" viewBox="0 0 120 120" role="img" aria-label="Attention score {points:.1f} of 100">'
        '<circle class="track" cx="60" cy="60" r="52"/>'
        f'<circle class="arc" cx="60" cy="60" r="52" stroke-dasharray="{around * points / 100:.1f} {around:.1f}"'
        ' transform="rotate(-90 60 60)"/>'
        f'<text x="60" y="66" text-anchor="middle">{points:.1f}</text>'
        '<text class="of" x="60" y="84" text-anchor="middle">of 100</text></svg>'
    )


def trend(history: Sequence[Mapping[str, Any]]) -> str:
    """The total score over the reviews so far, as a line; empty for fewer than three."""
    if len(history) < 3:
        return ""
    scores = [entry["score"] for entry in history]
    low, high = min(scores), max(scores)
    spread = (high - low) or 1.0
    step = 200 / (len(scores) - 1)
    points = [(10 + index * step, 46 - 36 * (value - low) / spread) for index, value in enumerate(scores)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        '<svg class="trend" viewBox="0 0 220 56" role="img" '
        f'aria-label="Total score over {len(scores)} reviews, from {scores[0]:.1f} to {scores[-1]:.1f}">'
        f'<polyline points="{line}"/><circle cx="{points[-1][0]:.1f}" cy="{points[-1][1]:.1f}" r="4"/></svg>'
    )
