"""Where the time goes inside a process: py-spy samples it, from outside, while a contender has a turn of its own for that."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.figure import Table

RATE_HZ = 200
SHOWN = 30
TRUNK = 0.97
"""A function with this share of all samples below it is the trunk (the event loop, the thread's start): it says nothing."""
END_TIMEOUT_S = 60.0
WAITING = frozenset(
    {
        "Thread.run (threading.py)",
        "Condition.wait (threading.py)",
        "_worker (futures/thread.py)",
        "EpollSelector.select (selectors.py)",
        "Worker.main_loop (_private/worker.py)",
        "listen_error_messages (_private/worker.py)",
    }
)
"""Where threads wait, or are in native code (uvloop, Ray's core), which py-spy cannot tell apart here: left out."""
_PLACE = re.compile(r" \((?P<file>.*?)(?::\d+)?\)$")


def py_spy() -> str | None:
    """The program, beside this Python or on the path."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def start(processes: Mapping[str, int], folder: Path, *, seconds: float) -> dict[str, subprocess.Popen[bytes]]:
    """Sample each (by name and pid) for so long, without stopping it; folded stacks go to `folder`/<name>.folded."""
    program = py_spy()
    if program is None:
        raise FileNotFoundError("py-spy is not installed in this environment: pip install py-spy")
    folder.mkdir(parents=True, exist_ok=True)
    started = {}
    for name, pid in processes.items():
        command = [
            program,
            "record",
            "--pid",
            str(pid),
            "--format",
            "raw",
            "--rate",
            str(RATE_HZ),
            "--duration",
            f"{max(1, round(seconds))}",
        ]
        with (folder / f"{name}.log").open("wb") as log:
            started[name] = subprocess.Popen([*command, "--output", str(folder / f"{name}.folded")], stdout=log, stderr=log)
    return started


def finish(started: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Wait until each has written its file; whatever does not is killed."""
    for process in started.values():
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def table_of(name: str, folder: Path) -> Table:
    """The functions with the largest share of the samples, callees included."""
    total, own, under = count((folder / f"{name}.folded").read_text().splitlines())
    branches = [(function, samples) for function, samples in under.most_common() if samples < TRUNK * total]
    rows = [(function, f"{100 * samples / total:.1f} %", f"{100 * own[function] / total:.1f} %") for function, samples in branches[:SHOWN]]
    return Table(f"where {name} spends its time ({total} samples in Python code)", ("function", "with callees", "itself"), rows)


def count(folded: Iterable[str]) -> tuple[int, Counter[str], Counter[str]]:
    """Of `frame;frame;frame samples` lines: all samples; by function its own, and those with its callees (recursion counts once)."""
    total = 0
    own: Counter[str] = Counter()
    under: Counter[str] = Counter()
    for line in folded:
        stack, _, number = line.rpartition(" ")
        if not number.isdigit():
            continue
        frames = [_function(frame) for frame in stack.split(";") if frame.strip() and not frame.startswith(("process ", "thread "))]
        if not frames or frames[-1] in WAITING:
            continue
        samples = int(number)
        total += samples
        own[frames[-1]] += samples
        for function in set(frames):
            under[function] += samples
    return max(total, 1), own, under


def _function(frame: str) -> str:
    """`decide (agentflow/engine/decide.py:151)` becomes `decide (engine/decide.py)`: lines of one function belong together."""
    found = _PLACE.search(frame)
    if found is None:
        return frame
    return f"{frame[: found.start()]} ({'/'.join(Path(found['file']).parts[-2:])})"
