"""`startup`: from typing `agentflow up` until it says that it is ready, against a bare Ray Serve that answers behind the same HAProxy.

Each start has processes, a home folder and ports of its own. Ours is timed twice: the first start in an empty home, which also
makes a database and all its tables, and the next one there. The peer is `ray.init` and `serve.run` of a hello-world, in a fresh Python,
until an HTTP request is answered.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentflow.cluster import ports, ray_head, state
from benchmarks.figure import Figure, Outcome, Table, Target
from benchmarks.place import Place, open_place
from benchmarks.registry import Run
from benchmarks.samples import median, spread
from benchmarks.turns import in_turns

NAME = "startup"
FIRST, NEXT, BARE = "first `agentflow up`", "next `agentflow up`", "bare ray.init + serve.run"
TARGET = Target("difference", 10.0, at_least=False)
ROUNDS, QUICK_ROUNDS = 3, 1
TIMEOUT_S = 180.0
POLL_S = 0.02
WORKLOAD = Path(__file__).parent / "workloads" / "chain"


class StartFailed(Exception):
    """With the end of the log."""


@dataclass(frozen=True, slots=True)
class Start:
    """How long one start took, and its parts as `up` itself says."""

    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


def run(run: Run) -> Outcome:
    kept = open_place(run.stack)  # the home of the next starts
    if not run.quick:
        run.tell("preparing the home of the next starts")
        _ours(kept)

    def measure(contender: str) -> Start:
        place = kept if contender == NEXT else open_place(run.stack)
        start = _bare(place) if contender == BARE else _ours(place)
        if place is not kept:
            place.close()
        run.tell(f"{contender}: {start.seconds:.1f} s")
        return start

    contenders = [FIRST, BARE] if run.quick else [FIRST, NEXT, BARE]
    starts = in_turns(contenders, run.rounds_or(ROUNDS, QUICK_ROUNDS), measure)
    seconds = {name: median(start.seconds for start in found) for name, found in starts.items()}
    figures = [Figure(NAME, f"{name} until ready", "s", seconds[name], seconds[BARE], BARE, TARGET) for name in contenders if name != BARE]
    return Outcome(figures, [_spread_table(starts), _parts_table(starts)])


def _spread_table(starts: Mapping[str, Sequence[Start]]) -> Table:
    rows = [(name, str(len(found)), spread((start.seconds for start in found), 1)) for name, found in starts.items()]
    return Table("seconds until ready: median (lowest to highest)", ("start", "times", "seconds"), rows)


def _parts_table(starts: Mapping[str, Sequence[Start]]) -> Table:
    names = sorted({part for found in starts.values() for start in found for part in start.parts})
    rows = [
        (name, *(f"{median(start.parts[part] for start in found):.1f}" for part in names))
        for name, found in starts.items()
        if found[0].parts
    ]
    return Table("its parts as `up` says, seconds; some of them overlap", ("start", *names), rows)


def _ours(place: Place) -> Start:
    """`agentflow up`, timed until it ends, then `agentflow down`. Raises StartFailed."""
    env = place.environment() | {"AGENTFLOW_PORT": "0", "AGENTFLOW_DASHBOARD_PORT": "0"}
    del env["PYTHONPATH"]  # the installed package, as a user has it
    began = time.perf_counter()
    said = _command(["up", "--app-dir", str(WORKLOAD), "--json"], env, place)
    seconds = time.perf_counter() - began
    parts = json.loads(said)["seconds"]
    _command(["down"], env, place)
    return Start(seconds, parts)


def _command(arguments: Sequence[str], env: Mapping[str, str], place: Place) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "from agentflow.cluster.cli import main; main()", *arguments],
        env=dict(env),
        cwd=place.home,  # no agentflow.toml of the caller's folder
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise StartFailed(f"agentflow {arguments[0]} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    return done.stdout


def _bare(place: Place) -> Start:
    """The peer, timed until it answers, then ended with everything it started. Raises StartFailed."""
    settings = place.settings()
    state.prepare_home(settings)
    chosen, folder = ports.choose(settings), state.make_run_folder(settings)
    ray_head.write_haproxy(folder, chosen)
    env = place.environment() | _proxy_settings(ray_head.environment(settings, chosen, folder=folder, token_file=place.home / "none"))
    log = settings.logs / "bare.log"
    command = [sys.executable, "-P", "-m", "benchmarks.peers.bare_serve", str(chosen.api), str(folder / "ray"), str(chosen.dashboard)]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, cwd=place.home, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _until_answered(f"http://127.0.0.1:{chosen.api}/", process, log)
        return Start(time.perf_counter() - began)
    finally:
        ray_head.end_all(place.home)
        process.wait()
        if process.stdin:
            process.stdin.close()


def _proxy_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What makes the proxy the same as ours; Ray itself stays as it comes, on the loopback."""
    return {name: value for name, value in env.items() if name.startswith("RAY_SERVE_") or name == "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}


def _until_answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise StartFailed(
                    f"the bare Ray Serve does not answer ({error}). Its log ends with:\n{ray_head.tail(log, 3_000)}"
                ) from None
        time.sleep(POLL_S)
