"""Figures and tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from benchmarks.figure import Figure, Outcome, Table

_FIGURES = ("figure", "unit", "ours", "reference", "against", "ratio", "target", "met")


def write(outcome: Outcome, out: IO[str]) -> None:
    for table in (figures_table(outcome.figures), *outcome.tables):
        write_table(table, out)
    for note in outcome.notes:
        out.write(f"note: {note}\n")
    out.flush()


def figures_table(figures: Sequence[Figure]) -> Table:
    return Table(figures[0].benchmark if figures else "figures", _FIGURES, [_row(figure) for figure in figures])


def _row(figure: Figure) -> tuple[str, ...]:
    met = {None: "-", True: "yes", False: "NO"}[figure.met]
    target = "-" if figure.target is None else str(figure.target)
    return (
        figure.figure,
        figure.unit,
        number(figure.ours),
        number(figure.reference),
        figure.against,
        f"{figure.ratio:.2f}",
        target,
        met,
    )


def number(value: float) -> str:
    """Three digits that count: 12,345 or 123 or 12.3 or 1.23."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def write_table(table: Table, out: IO[str]) -> None:
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    out.write(f"\n{table.title}\n")
    for row in rows:
        out.write("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
