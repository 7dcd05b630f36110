"""What a benchmark says: figures with their reference and target, and tables that explain them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on the ratio `ours / reference`, or on the difference `ours - reference` (in the figure's unit)."""

    of: str
    """`ratio` or `difference`."""
    bound: float
    at_least: bool
    """True: ours must reach the bound; False: it must stay within it."""

    def holds(self, ours: float, reference: float) -> bool:
        value = ours / reference if self.of == "ratio" else ours - reference
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{self.of} {'>=' if self.at_least else '<='} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number beside what it is compared with. `target` None: for information, no claim yet."""

    benchmark: str
    figure: str
    unit: str
    ours: float
    reference: float
    against: str
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """Ours divided by the reference: above 1 is good for a rate, below 1 for a time."""
        return self.ours / self.reference if self.reference else float("inf")

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.holds(self.ours, self.reference)

    def as_json(self) -> str:
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "figure": self.figure,
                "unit": self.unit,
                "ours": round(self.ours, 4),
                "reference": round(self.reference, 4),
                "against": self.against,
                "ratio": round(self.ratio, 4) if self.reference else None,
                "target": None if self.target is None else str(self.target),
                "met": self.met,
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True, slots=True)
class Table:
    """Explains figures: percentiles, spread, where the time goes. Not part of the JSON."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that one benchmark measured. `versions`: of what took part, beyond the usual ones."""

    figures: Sequence[Figure]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = field(default=())

    @property
    def missed(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.met is False]
