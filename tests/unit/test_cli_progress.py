"""Progress folded from events, and how it is drawn: as lines in a log, as bars on a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentflow.client import Event
from agentflow.cluster import render
from agentflow.cluster.progress import Bars, Lines, Tally, progress_for

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Journal:
    """Makes events with the next seq, a second apart."""

    def __init__(self) -> None:
        self.seq = 0

    def __call__(self, kind: str, **body: Any) -> Event:
        self.seq += 1
        return Event(self.seq, kind, AT + timedelta(seconds=self.seq), body)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def at() -> Journal:
    return Journal()


def mapped(at: Journal, count: int) -> list[Event]:
    """A map step from start to end, every item scheduled before the first is done."""
    events = [at("step.expanded", step="each", count=count)]
    events += [at("step.scheduled", step=f"each[{index}]", attempt=1) for index in range(count)]
    return events + [at("step.completed", step=f"each[{index}]", attempt=1, started_at="") for index in range(count)]


FAILURE = {"code": "value_error", "message": "bad [red]name[/]\n  second line", "retryable": True}


def test_a_map_step_counts_its_items(at: Journal) -> None:
    tally = Tally(["each"])
    for event in mapped(at, 3)[:5]:
        tally.add(event)
    step = tally.steps["each"]
    assert (step.total, len(step.ended), len(step.running), step.done) == (3, 1, 2, False)


def test_a_map_step_that_is_completed_as_a_whole_is_done(at: Journal) -> None:
    tally = Tally()
    for event in [*mapped(at, 3)[:2], at("step.completed", step="each", attempt=1, started_at="")]:
        tally.add(event)
    assert tally.steps["each"].done


def test_a_map_step_over_nothing_is_done_at_once(at: Journal) -> None:
    tally = Tally()
    tally.add(at("step.expanded", step="each", count=0))
    assert tally.steps["each"].done


def test_events_seen_twice_count_once(at: Journal) -> None:
    tally, events = Tally(), mapped(at, 2)
    for event in [*events, *events]:
        tally.add(event)
    assert len(tally.steps["each"].ended) == 2
    assert tally.last_seq == len(events)


def test_a_retry_is_no_end_and_the_last_failure_is(at: Journal) -> None:
    tally = Tally()
    tally.add(at("step.scheduled", step="a", attempt=1))
    tally.add(at("step.failed", step="a", attempt=1, failure=FAILURE, retry_at="2026-11-21T12:00:09Z"))
    assert (tally.steps["a"].done, tally.steps["a"].failed) == (False, 0)
    tally.add(at("step.failed", step="a", attempt=2, failure=FAILURE, retry_at=None))
    assert (tally.steps["a"].done, tally.steps["a"].failed) == (True, 1)


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled"])
def test_the_end_of_the_execution_is_its_status(at: Journal, ending: str) -> None:
    tally = Tally()
    tally.add(at("step.scheduled", step="a", attempt=1))
    tally.add(at(f"execution.{ending}", failure=FAILURE, step="a"))
    assert (tally.status, tally.failed_step) == (ending, "a")


def test_an_event_of_a_kind_that_is_not_known_changes_nothing(at: Journal) -> None:
    tally = Tally(["a"])
    tally.add(at("effect.recorded", step="a", path="0"))
    tally.add(at("budget.reserved"))
    assert not tally.steps["a"].done


def test_lines_say_a_long_map_step_in_tenths(at: Journal) -> None:
    stream, tally = io.StringIO(), Tally()
    with Lines(tally, stream) as lines:
        for event in mapped(at, 100):
            lines.show(event, tally.add(event))
    said = [line[9:] for line in stream.getvalue().splitlines()]
    assert said[0] == "each: 100 items"
    assert [line.split()[1] for line in said[1:]] == [f"{tenth}0/100" for tenth in range(1, 11)]


def test_lines_say_failures_crashes_and_delays_once(at: Journal) -> None:
    stream, tally = io.StringIO(), Tally()
    with Lines(tally, stream) as lines:
        for event in (
            at("step.scheduled", step="a", attempt=1),
            at("step.crashed", step="a", attempt=1, crashes=1),
            at("step.delayed", step="a", attempt=1, message="needs 4 cpu"),
            at("step.failed", step="a", attempt=1, failure=FAILURE, retry_at="x"),
            at("step.skipped", step="b"),
        ):
            lines.show(event, tally.add(event))
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "a: started",
        "a: its process died; it is dispatched again",
        "a waits: needs 4 cpu",
        "a attempt 1: value_error: bad [red]name[/]",
        "b: skipped",
    ]


def test_a_terminal_gets_bars_and_a_pipe_gets_lines() -> None:
    assert isinstance(progress_for(Tally(), stream=Screen()), Bars)
    assert isinstance(progress_for(Tally(), stream=io.StringIO()), Lines)


def test_bars_show_every_step_and_take_markup_in_messages_as_text(at: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    screen, tally = Screen(), Tally(["each", "later", "never"])
    with Bars(tally, screen) as bars:
        for event in [*mapped(at, 4), at("step.skipped", step="later")]:
            bars.show(event, tally.add(event))
        failed = at("step.failed", step="never", attempt=1, failure=FAILURE, retry_at=None)
        bars.show(failed, tally.add(failed))
    drawn = screen.getvalue()
    assert "4/4" in drawn
    assert "skipped" in drawn
    assert "bad [red]name[/]" in drawn


# ---------------------------------------------------------------------------------------------------- render


def test_text_of_others_cannot_drive_the_terminal() -> None:
    assert render.clean("a\x1b]0;title\x07\x9b31m\u202eb\n\tc") == "a\\x1b]0;title\\x07\\x9b31m\\u202eb\n\tc"


def test_json_survives_lone_surrogates_and_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    render.write_json({"text": "\udcff\x9b\u2028é"})
    capsys.readouterr().out.encode("ascii")


def test_tables_are_never_cut_and_say_when_they_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    render.table(("A", "B"), [("x" * 300, "line\nbreak"), (None, "")], empty="nothing")
    assert capsys.readouterr().out.splitlines()[1:] == [f"{'x' * 300}  line break", f"-{' ' * 299}  -"]
    render.table(("A",), [], empty="nothing")
    assert capsys.readouterr() == ("", "nothing\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.96, "10.0 s"), (12.4, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min"), (-1, "0.0 s")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert render.seconds_text(seconds) == text
