"""How benchmarks run: exit codes, and that whatever they start is ended, also when they fail, are interrupted or are killed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from agentflow.cluster import ray_head
from benchmarks import __main__ as command
from benchmarks import place as places
from benchmarks.contender import Contender, ContenderFailed
from benchmarks.figure import Figure, Outcome, Target
from benchmarks.registry import BENCHMARKS, Benchmark, Run

CHILD = """
import asyncio, os
from benchmarks.answering import answer, take_stdout
answers = take_stdout()
print("noise that is no answer")
async def double(number): return number * 2
async def fail(): raise ValueError("as told")
async def end(): os._exit(3)
async def hang(): await asyncio.sleep(3600)
asyncio.run(answer({"double": double, "fail": fail, "end": end, "hang": hang}, answers))
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "places"
    monkeypatch.setattr(places, "ROOT", folder)
    return folder


class Fake(Benchmark):
    """A benchmark that does what it is told."""

    def __init__(self, does: object) -> None:
        super().__init__("fake", "for tests", ("agentflow",))
        object.__setattr__(self, "_does", does)

    __slots__ = ("_does",)

    def measure(self, run: Run) -> Outcome:
        return self._does(run)  # type: ignore[attr-defined, no-any-return]


def given(monkeypatch: pytest.MonkeyPatch, does: object) -> None:
    monkeypatch.setitem(BENCHMARKS, "fake", Fake(does))


def outcome(*, ours: float) -> Outcome:
    return Outcome([Figure("fake", "speed", "steps/s", ours, 10.0, "peer", Target("ratio", 20, at_least=True))])


@pytest.mark.parametrize(("ours", "code"), [(200.0, 0), (199.0, 1)])
def test_the_exit_code_says_whether_the_targets_are_met(
    ours: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(monkeypatch, lambda run: outcome(ours=ours))
    assert command.main(["fake", "--json", "--seed", "11"]) == code
    said = capsys.readouterr()
    (line,) = said.out.splitlines()  # nothing but JSON goes to stdout
    assert json.loads(line)["met"] is (code == 0)
    assert "seed      11" in said.err
    assert ("target missed: speed" in said.err) is (code == 1)


@pytest.mark.parametrize(("error", "code"), [(RuntimeError("no Ray here"), 3), (KeyboardInterrupt(), 130)])
def test_what_was_started_is_undone_when_it_fails_or_is_interrupted(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    undone: list[str] = []

    def does(run: Run) -> Outcome:
        run.stack.callback(undone.append, "first")
        run.stack.callback(undone.append, "second")
        raise error

    given(monkeypatch, does)
    assert command.main(["fake"]) == code
    assert undone == ["second", "first"]


def test_all_benchmarks_are_listed_and_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("durable_steps", "startup"))
    for arguments in (["nonsense"], [], ["startup", "--rounds", "0"]):
        with pytest.raises(SystemExit) as caught:
            command.main(arguments)
        assert caught.value.code == command.USAGE


def test_a_contender_answers_with_what_its_handler_returns(stack: ExitStack, tmp_path: Path) -> None:
    contender = child(stack, tmp_path)
    assert contender.ask("double", number=21, timeout_s=30) == 42
    assert contender.ask("double", number=2, timeout_s=30) == 4


@pytest.mark.parametrize(
    ("do", "timeout_s", "says"),
    [("fail", 30.0, "ValueError: as told"), ("end", 30.0, "ended"), ("hang", 0.2, "did not answer within 0.2 s")],
)
def test_a_contender_that_fails_ends_or_hangs_is_an_error_with_its_log(
    do: str, timeout_s: float, says: str, stack: ExitStack, tmp_path: Path
) -> None:
    contender = child(stack, tmp_path)
    contender.ask("double", number=1, timeout_s=30)
    with pytest.raises(ContenderFailed, match=says) as caught:
        contender.ask(do, timeout_s=timeout_s)
    assert "noise that is no answer" in str(caught.value)


def test_a_contender_is_gone_when_its_stack_is(tmp_path: Path) -> None:
    with ExitStack() as stack:
        contender = child(stack, tmp_path)
        contender.ask("double", number=1, timeout_s=30)
        assert psutil.pid_exists(contender.pid)
    assert not psutil.pid_exists(contender.pid)


def test_closing_a_place_ends_its_processes_and_no_others(stack: ExitStack) -> None:
    mine, other = places.open_place(stack), places.open_place(stack)
    child_of_mine = sleeper(mine.environment(), stack)
    child_of_other = sleeper(other.environment(), stack)
    mine.close()
    mine.close()  # again is nothing
    assert child_of_mine.wait(10) != 0
    assert child_of_other.poll() is None
    assert not mine.home.exists() and other.home.exists()


def test_what_a_killed_benchmark_left_is_swept_and_what_a_living_one_has_is_not(stack: ExitStack, root: Path) -> None:
    living = places.open_place(stack)
    left = root / "left"
    left.mkdir()
    (left / places.LOCK).touch()
    orphan = sleeper(places.Place(left, -1).environment(), stack)
    places.sweep(lambda text: None)
    assert orphan.wait(10) != 0
    assert not left.exists() and living.home.exists()


def test_the_lock_of_a_place_is_not_inherited(stack: ExitStack) -> None:
    place = places.open_place(stack)
    sleeper(place.environment(), stack)
    assert place._lock is not None
    fcntl.flock(place._lock, fcntl.LOCK_UN)  # as if this process had died: the child must not hold it up
    again = os.open(place.home / places.LOCK, os.O_RDWR)
    stack.callback(os.close, again)
    fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_place_hides_the_callers_settings_and_marks_its_processes(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://user:secret@host/production")
    monkeypatch.setenv("RAY_ADDRESS", "production:6379")
    place = places.open_place(stack)
    env = place.environment()
    assert "AGENTFLOW_DATABASE_URL" not in env and "RAY_ADDRESS" not in env
    assert env[ray_head.MARK] == env["AGENTFLOW_HOME"] == str(place.home)
    assert place.settings().database_url is None


def child(stack: ExitStack, folder: Path) -> Contender:
    (folder / "benchmark_child.py").write_text(CHILD)
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{Path(command.__file__).parents[1]}", "PYTHONUNBUFFERED": "1"}
    return Contender("benchmark_child", env=env, log=folder / "child.log", stack=stack)


def sleeper(env: dict[str, str], stack: ExitStack) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"], env=env, stdin=-1, stdout=-1
    )
    assert process.stdout is not None and process.stdin is not None
    stack.callback(process.stdin.close)
    stack.callback(process.stdout.close)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout.readline() == b"up\n"
    return process
