"""`python -m benchmarks NAME [--json] [--quick]`: run one benchmark, say what was measured, end with 1 when a target is missed."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from benchmarks import machine, report
from benchmarks.figure import Outcome
from benchmarks.place import sweep
from benchmarks.registry import BENCHMARKS, Run

MET, MISSED, USAGE, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
DEFAULT_SEED = 7


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Compare AgentFlow with its peers, in one run on one machine."
    )
    parser.add_argument("name", nargs="?", help="which benchmark")
    parser.add_argument("--list", action="store_true", help="name all benchmarks")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each figure; everything else goes to stderr")
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer rounds and levels, the same comparison")
    parser.add_argument("--rounds", type=int, help="turns of each contender (medians are taken over them)")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="also sample our processes with py-spy, in turns of their own")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help=f"of the inputs (default {DEFAULT_SEED})")
    asked = parser.parse_args(arguments)
    if asked.list:
        width = max(map(len, BENCHMARKS))
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:{width}}  {benchmark.summary}")
        return MET
    if asked.name not in BENCHMARKS:
        parser.error(f"no benchmark {asked.name!r}; there are: {', '.join(BENCHMARKS)}" if asked.name else "which one? See --list")
    if asked.rounds is not None and asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    return _measure(asked)


def _measure(asked: argparse.Namespace) -> int:
    began = time.monotonic()
    out = sys.stderr if asked.json else sys.stdout
    benchmark = BENCHMARKS[asked.name]
    for name, value in (machine.facts(benchmark.packages) | {"seed": str(asked.seed), "quick": "yes" if asked.quick else "no"}).items():
        print(f"{name:9} {value}", file=out, flush=True)

    def tell(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr, flush=True)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        sweep(tell)
        with _undone() as stack:
            outcome = benchmark.measure(Run(asked.quick, asked.seed, asked.rounds, stack, tell, asked.profile))
    except KeyboardInterrupt:
        print("interrupted; what was started is stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception:  # noqa: BLE001 the top of this program
        traceback.print_exc()
        print("the benchmark could not be run; what was started is stopped", file=sys.stderr)
        return FAILED
    return _say(outcome, as_json=asked.json)


def _say(outcome: Outcome, *, as_json: bool) -> int:
    out = sys.stderr if as_json else sys.stdout
    report.write(outcome, out)
    if as_json:
        for figure in outcome.figures:
            print(figure.as_json(), flush=True)
    for figure in outcome.missed:
        print(
            f"target missed: {figure.figure}: {figure.target}; ours {figure.ours:.4g}, reference {figure.reference:.4g} {figure.unit}",
            file=out,
        )
    return MISSED if outcome.missed else MET


@contextmanager
def _undone() -> Iterator[ExitStack]:
    """A stack that is undone however its block ends. A second Ctrl-C meanwhile is ignored: it would leave half of it running."""
    stack = ExitStack()
    try:
        yield stack
    finally:
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        try:
            stack.close()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
