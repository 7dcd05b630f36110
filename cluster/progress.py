"""Live progress of one execution, folded from its events: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from agentflow.cluster.render import clean, counted, one_line, seconds_text

if TYPE_CHECKING:
    from agentflow.client import Event

ENDS = {"execution.completed": "completed", "execution.failed": "failed", "execution.cancelled": "cancelled"}


@dataclass(slots=True)
class StepTally:
    """One step as a line: `total` is 1, or a map step's number of items once it is known."""

    name: str
    total: int | None = None
    running: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    failed: int = 0
    skipped: bool = False
    note: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.skipped or (self.total is not None and len(self.ended) >= self.total)


class Tally:
    """Folds events into lines, one a step, in the order of the definition (`steps`) or of their first event."""

    def __init__(self, steps: Iterable[str] = ()) -> None:
        self.steps = {name: StepTally(name) for name in steps}
        self.status = "running"
        self.failure: Mapping[str, Any] | None = None
        self.failed_step: str | None = None
        self.last_seq = 0
        self.started_at: datetime | None = None
        self.ended_at: datetime | None = None

    def add(self, event: Event) -> StepTally | None:
        """Folds one event in; returns the step it belongs to. An event that was seen already changes nothing."""
        if event.seq <= self.last_seq:
            return None
        self.last_seq = event.seq
        self.started_at = self.started_at or event.at
        if event.kind in ENDS:
            self.status, self.ended_at = ENDS[event.kind], event.at
            self.failure = event.body.get("failure")
            self.failed_step = event.body.get("step")
            return None
        key = event.body.get("step")
        if not isinstance(key, str):
            return None
        name = key.partition("[")[0]
        step = self.steps.setdefault(name, StepTally(name))
        self._fold(step, key, event)
        if step.done and step.ended_at is None:
            step.ended_at = event.at
        return step

    def _fold(self, step: StepTally, key: str, event: Event) -> None:
        step.started_at = step.started_at or event.at
        match event.kind:
            case "step.expanded":
                step.total = int(event.body["count"])
            case "step.scheduled":
                step.running.add(key)
                step.total = step.total if "[" in key else 1
            case "step.completed":
                step.running.discard(key)
                step.ended.add(key)
                step.note = ""
                if "[" not in key and step.total not in (None, 1):
                    step.ended = {f"{key}[{index}]" for index in range(step.total or 0)}
            case "step.failed":
                step.running.discard(key)
                what = one_line(f"{event.body['failure']['code']}: {event.body['failure']['message']}", 90)
                step.note = f"{key} attempt {event.body['attempt']}: {what}"
                if event.body.get("retry_at") is None:
                    step.failed += 1
                    step.ended.add(key)
            case "step.crashed":
                step.note = f"{key}: its process died; it is dispatched again"
            case "step.delayed":
                step.note = one_line(f"{key} waits: {event.body['message']}", 90)
            case "step.skipped":
                step.skipped = True


class Progress(Protocol):
    """Shows a Tally while it changes; entering starts, leaving ends the drawing."""

    def show(self, event: Event, step: StepTally | None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def progress_for(tally: Tally, *, stream: IO[str] | None = None) -> Progress:
    """Bars when `stream` (stderr if not given) is a terminal, else lines."""
    stream = stream or sys.stderr
    return Bars(tally, stream) if stream.isatty() else Lines(tally, stream)


class Lines:
    """A line when a step starts and ends, every tenth part of a map step, and for each failure."""

    def __init__(self, tally: Tally, stream: IO[str]) -> None:
        self._tally, self._stream = tally, stream
        self._said: dict[str, int] = {}
        self._notes: dict[str, str] = {}

    def show(self, event: Event, step: StepTally | None) -> None:
        if step is None:
            return
        name = clean(step.name)
        if step.note and step.note != self._notes.get(name):
            self._notes[name] = step.note
            self._say(event.at, step.note)
        if step.skipped:
            self._say(event.at, f"{name}: skipped")
        elif event.kind == "step.expanded":
            self._say(event.at, f"{name}: {counted(step.total or 0, 'item')}")
        elif step.total == 1 and event.kind == "step.scheduled" and event.body.get("attempt") == 1:
            self._say(event.at, f"{name}: started")
        elif event.kind == "step.completed" and step.total:
            tenth = 10 * len(step.ended) // step.total
            if tenth > self._said.get(name, 0) or step.done:
                self._said[name] = tenth
                count = f" {len(step.ended)}/{step.total}" if step.total > 1 else ""
                took = f" in {seconds_text((event.at - step.started_at).total_seconds())}" if step.done and step.started_at else ""
                self._say(event.at, f"{name}:{count or ' completed'}{took}")

    def _say(self, at: datetime, text: str) -> None:
        print(f"{at.astimezone():%H:%M:%S} {text}", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.flush()


class Bars:
    """One bar a step, drawn by rich."""

    def __init__(self, tally: Tally, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._tally = tally
        self._rich = RichProgress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=32, complete_style="cyan", finished_style="green"),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(file=stream),
        )
        self._tasks: dict[str, Any] = {}

    def show(self, event: Event, step: StepTally | None) -> None:
        if step is not None:
            self._draw(step)
        elif event.kind in ENDS:
            for left in self._tally.steps.values():
                if not left.done:
                    self._stop(left)

    def _draw(self, step: StepTally) -> None:
        from rich.markup import escape

        if step.name not in self._tasks:
            self._tasks[step.name] = self._rich.add_task(escape(clean(step.name)), start=False, total=None, count="", note="")
        task = self._tasks[step.name]
        if step.started_at is not None:
            self._rich.start_task(task)
        if step.skipped:
            self._rich.update(task, total=1, completed=1, note="skipped")
            return
        count = f"{len(step.ended)}/{step.total}" if step.total and step.total > 1 else ""
        note = step.note or (f"{len(step.running)} running" if len(step.running) > 1 else "")
        note = f"[red]{step.failed} failed[/] {escape(note)}" if step.failed else escape(note)
        total = max(1, step.total) if step.total is not None else None
        completed = total if step.total == 0 else len(step.ended)
        # A single step has nothing to count: its bar pulses until it is done.
        shown = None if total == 1 and not completed else total
        self._rich.update(task, total=shown, completed=completed, count=count, note=note)

    def _stop(self, step: StepTally) -> None:
        if step.name in self._tasks:
            self._rich.stop_task(self._tasks[step.name])

    def __enter__(self) -> Self:
        self._rich.start()
        for step in self._tally.steps.values():
            self._draw(step)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rich.stop()
