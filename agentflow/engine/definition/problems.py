"""Collects everything that is wrong with one definition, so that all of it is reported at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from difflib import get_close_matches
from typing import Protocol

from agentflow.domain.workflow import DefinitionError
from agentflow.errors import WorkflowInvalid

SUGGESTION_CANDIDATES = 1_000
"""Above so many names no near one is searched: the search compares with each of them."""


class Place(Protocol):
    """Where something stands in the text; both count from 1."""

    line: int
    column: int


class Problems:
    """Errors of one definition, in the order they are found. At most `limit` are kept, the rest is counted."""

    def __init__(self, file: str, *, limit: int) -> None:
        self.file = file
        self._limit = limit
        self._found: list[DefinitionError] = []
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: Place, code: str, message: str) -> None:
        self.add_at(place.line, place.column, code, message)

    def add_at(self, line: int, column: int, code: str, message: str) -> None:
        if len(self._found) >= self._limit:
            self._dropped += 1
            return
        # Text of the definition is quoted in messages; a lone surrogate in it must not break whoever prints or stores them.
        safe = message.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
        self._found.append(DefinitionError(self.file, line, column, code, safe))

    def in_order(self) -> list[DefinitionError]:
        """By place in the file."""
        return sorted(self._found, key=lambda error: (error.line, error.column))

    def raise_if_any(self) -> None:
        """Raises WorkflowInvalid with all of them."""
        if not self._found:
            return
        errors = self.in_order()
        total = len(errors) + self._dropped
        rest = f" (and {total - 1} more)" if total > 1 else ""
        raise WorkflowInvalid(f"{errors[0]}{rest}", errors=[asdict(error) for error in errors], total=total)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """`; did you mean …?` for the nearest of `candidates`, or nothing."""
    names = list(candidates)
    if len(names) > SUGGESTION_CANDIDATES:
        return ""
    lowered = {name.lower(): name for name in names}
    near = get_close_matches(word.lower(), lowered, n=1, cutoff=0.6)
    return f"; did you mean `{lowered[near[0]]}`?" if near else ""


def shown(value: object, *, limit: int = 60) -> str:
    """`value` as it is quoted in a message: short, on one line."""
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= limit else text[: limit - 1] + "…"
