"""What benchmarks say: figures, targets, percentiles, turns, and the load that they put on."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from benchmarks import closed_loop, profiling, report
from benchmarks.durable_steps import OURS, Turn, figures_of
from benchmarks.figure import Figure, Outcome, Table, Target
from benchmarks.samples import median, percentile, spread
from benchmarks.turns import in_turns

MEMBERS = ["benchmark", "figure", "unit", "ours", "reference", "against", "ratio", "target", "met"]


@pytest.mark.parametrize(
    ("target", "ours", "reference", "holds"),
    [
        (Target("ratio", 20, at_least=True), 2_000.0, 100.0, True),
        (Target("ratio", 20, at_least=True), 1_999.0, 100.0, False),
        (Target("ratio", 1.5, at_least=False), 1.5, 1.0, True),
        (Target("ratio", 1.5, at_least=False), 1.51, 1.0, False),
        (Target("difference", 10, at_least=False), 25.0, 15.0, True),
        (Target("difference", 10, at_least=False), 25.1, 15.0, False),
    ],
)
def test_a_target_bounds_the_ratio_or_the_difference(target: Target, ours: float, reference: float, holds: bool) -> None:
    figure = Figure("b", "f", "s", ours, reference, "peer", target)
    assert figure.met is holds
    assert bool(Outcome([figure]).missed) is not holds


def test_a_figure_is_one_line_of_json_with_the_documented_members() -> None:
    line = Figure("durable_steps", "durable steps at 64 in flight", "steps/s", 4_000.0, 200.0, "DBOS").as_json()
    assert "\n" not in line
    found = json.loads(line)
    assert list(found) == MEMBERS
    assert (found["ratio"], found["target"], found["met"]) == (20.0, None, None)
    judged = json.loads(Figure("b", "f", "s", 30.0, 15.0, "bare", Target("difference", 10, at_least=False)).as_json())
    assert (judged["target"], judged["met"]) == ("difference <= 10", False)


def test_a_figure_without_a_reference_has_no_ratio_and_stays_json() -> None:
    assert json.loads(Figure("b", "f", "s", 1.0, 0.0, "nothing").as_json())["ratio"] is None


def test_percentiles_are_samples_and_the_median_of_an_even_number_lies_between() -> None:
    samples = [float(number) for number in range(100, 0, -1)]
    assert [percentile(samples, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert percentile([3.0], 0.5) == 3.0
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5
    assert spread([1_000.0, 3_000.0, 2_000.0]) == "2,000 (1,000 to 3,000)"
    with pytest.raises(ValueError, match="no samples"):
        median([])


def test_contenders_take_turns_and_who_begins_changes() -> None:
    order: list[str] = []
    found = in_turns(["a", "b", "c"], 3, lambda name: order.append(name) or len(order))  # type: ignore[func-returns-value]
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_speed_is_compared_with_each_peer_and_latency_with_the_faster_one() -> None:
    def turns(speed: float, latency_s: float) -> list[Turn]:
        return [Turn(100, speed, [latency_s] * 10, {})]

    figures = figures_of(64, {OURS: turns(4_000, 0.1), "DBOS, 1 process": turns(100, 2.0), "DBOS, 2 processes": turns(200, 1.0)})
    assert [(figure.against, figure.ratio) for figure in figures if figure.unit == "steps/s"] == [
        ("DBOS, 1 process", 40.0),
        ("DBOS, 2 processes", 20.0),
    ]
    assert {(figure.against, figure.reference) for figure in figures if figure.unit == "ms"} == {("DBOS, 2 processes", 1_000.0)}


async def test_the_load_keeps_so_many_in_flight_and_ends_all_of_them() -> None:
    running = highest = 0

    async def chain(number: int) -> int:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0)
        running -= 1
        return number + closed_loop.STEPS

    found = await closed_loop.run(chain, in_flight=8, seconds=0.0, seed=1)
    assert (highest, running) == (8, 0)
    assert found["chains"] == len(found["latencies_s"]) == 8


async def test_a_wrong_result_ends_the_measurement() -> None:
    async def chain(number: int) -> int:
        return number

    with pytest.raises(ExceptionGroup) as caught:
        await closed_loop.run(chain, in_flight=1, seconds=0.0, seed=1)
    assert caught.group_contains(AssertionError, match="a chain of 10 steps made")


async def test_the_same_seed_gives_the_same_inputs() -> None:
    async def inputs(seed: int) -> list[int]:
        given: list[int] = []

        async def chain(number: int) -> int:
            given.append(number)
            return number + closed_loop.STEPS

        await closed_loop.run(chain, in_flight=5, seconds=0.0, seed=seed)
        return given

    assert await inputs(3) == await inputs(3) != await inputs(4)


def test_a_profile_counts_functions_once_a_stack_and_leaves_waiting_out() -> None:
    folded = [
        "run (a/b/main.py:1);fold (a/b/x.py:5);fold (a/b/x.py:9);add (a/b/y.py:2) 30",
        "run (a/b/main.py:1);add (a/b/y.py:7) 10",
        "run (a/b/main.py:1);wait (/lib/threading.py:327) 5",
        "_bootstrap (threading.py:1002);wait (threading.py:1) 5",
        "Event.wait (threading.py:3);Condition.wait (threading.py:327) 500",
        "cut off",
    ]
    total, own, under = profiling.count(folded)
    assert total == 50
    assert own["add (b/y.py)"] == 40
    assert under["fold (b/x.py)"] == 30
    assert under["run (b/main.py)"] == 45


def test_the_report_shows_every_table_and_says_no_to_a_missed_target() -> None:
    out = io.StringIO()
    missed = Figure("startup", "first", "s", 45.0, 15.0, "bare", Target("difference", 10, at_least=False))
    report.write(Outcome([missed], [Table("more", ("a", "b"), [("1", "2")])], ["PostgreSQL 18"]), out)
    text = out.getvalue()
    assert "difference <= 10  NO" in text
    assert "more\n  a  b\n  1  2\n" in text
    assert "note: PostgreSQL 18" in text
