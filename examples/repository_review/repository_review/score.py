"""The attention score, and what changed since the last review. Pure functions over what `analyse_package` returns.

The score of a package is 0 (calm) to 100 (look here first), a weighted sum of five parts, each between 0 and 1:

==============  ======  =======================================================  ==========
part            weight  what is measured                                         half point
==============  ======  =======================================================  ==========
complexity      35      functions over the limit, per 1,000 code lines           5
risk            30      risky calls (high counts 3), per 1,000 code lines        4
documentation   20      public definitions without a docstring, as a share       (linear)
open ends       10      TODO, FIXME, XXX and HACK comments, per 1,000 code lines 4
broken          5       files that could not be read or parsed                   1
==============  ======  =======================================================  ==========

A part grows as x / (x + half point): the first finding counts most, and nothing ever reaches the full weight. Packages
under 500 code lines are counted as if they had 500, so that one finding in a small package does not put it on top.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WEIGHTS = {"complexity": 35, "risk": 30, "documentation": 20, "open_ends": 10, "broken": 5}
SMALLEST_LINES = 500
ATTENTION, WATCH = 45.0, 25.0
"""From these scores on a package needs attention, or is worth watching."""


def score(package: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one package that the ranking, the report and the next review need: flat, small, JSON."""
    code_lines = package["code_lines"]
    per_thousand = 1000 / max(code_lines, SMALLEST_LINES)
    risky = package["risky_calls"]
    public = package["docstrings"]["public"]
    undocumented = public - package["docstrings"]["documented"]
    parts = {
        "complexity": _grow(package["complexity"]["over_limit"] * per_thousand, 5),
        "risk": _grow((3 * risky["high"] + risky["medium"]) * per_thousand, 4),
        "documentation": undocumented / public if public else 0.0,
        "open_ends": _grow(package["todos"]["count"] * per_thousand, 4),
        "broken": _grow(package["problems"]["count"], 1),
    }
    points = {part: round(WEIGHTS[part] * value, 1) for part, value in parts.items()}
    return {
        "name": package["name"],
        "score": round(sum(points.values()), 1),
        "points": points,
        "files": package["files"],
        "code_lines": code_lines,
        "functions": package["functions"],
        "classes": package["classes"],
        "complex_functions": package["complexity"]["over_limit"],
        "max_complexity": package["complexity"]["max"],
        "public": public,
        "undocumented": undocumented,
        "risky_calls": risky["high"] + risky["medium"],
        "risky_high": risky["high"],
        "todos": package["todos"]["count"],
        "problems": package["problems"]["count"],
        "truncated": package["truncated"],
    }


def _grow(value: float, half: float) -> float:
    return value / (value + half)


def band(points: float) -> str:
    """`attention`, `watch` or `calm`."""
    return "attention" if points >= ATTENTION else "watch" if points >= WATCH else "calm"


def rank(packages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Scores of all packages, highest first; equal ones by size, then by name."""
    scored = [score(package) for package in packages]
    return sorted(scored, key=lambda entry: (-entry["score"], -entry["code_lines"], entry["name"]))


SUMMED = (
    *("files", "code_lines", "functions", "classes", "complex_functions"),
    *("public", "undocumented", "risky_calls", "risky_high", "todos", "problems"),
)


def total(ranking: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sums over the packages; `score` is the mean weighted by code lines, so that it stands for the code, not for folders."""
    sums: dict[str, Any] = {key: sum(entry[key] for entry in ranking) for key in SUMMED}
    lines = sum(max(1, entry["code_lines"]) for entry in ranking)
    sums["score"] = round(sum(entry["score"] * max(1, entry["code_lines"]) for entry in ranking) / lines, 1) if lines else 0.0
    sums["packages"] = len(ranking)
    return sums


COMPARED = {
    "code_lines": "code lines",
    "complex_functions": "complex functions",
    "risky_calls": "risky calls",
    "undocumented": "undocumented definitions",
    "todos": "open ends",
    "problems": "unreadable files",
}


def summary_of(ranking: Sequence[Mapping[str, Any]], at: str) -> dict[str, Any]:
    """What a review leaves in the session for the next one: the date, and each package's compared numbers."""
    numbers = {entry["name"]: {key: entry[key] for key in ("score", *COMPARED)} for entry in ranking}
    return {"at": at, "score": total(ranking)["score"], "packages": numbers}


def compare(ranking: Sequence[Mapping[str, Any]], previous: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is new, gone, better and worse than in the `summary_of` an earlier review; None when there was none.

    `moved` holds {name, before, after, because: [text]} by how far the score moved, farthest first.
    """
    if previous is None:
        return None
    before, now = previous["packages"], {entry["name"]: entry for entry in ranking}
    moved = []
    for name in now.keys() & before.keys():
        because = [
            f"{label} {before[name][key]:,} → {now[name][key]:,}"
            for key, label in COMPARED.items()
            if before[name].get(key) != now[name][key]
        ]
        if because:
            moved.append({"name": name, "before": before[name]["score"], "after": now[name]["score"], "because": because})
    moved.sort(key=lambda change: (-abs(change["after"] - change["before"]), change["name"]))
    return {
        "since": previous["at"],
        "score_before": previous["score"],
        "added": sorted(now.keys() - before.keys()),
        "removed": sorted(before.keys() - now.keys()),
        "moved": moved,
    }
