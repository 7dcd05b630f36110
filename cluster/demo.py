"""`python -m agentflow.cluster.demo` (`make demo`): a local cluster, the example on real code, the report; then it stops the cluster."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentflow.cluster.cli_cluster import show_checks, telling
from agentflow.cluster.cli_follow import write_result
from agentflow.cluster.cli_input import read_workflow
from agentflow.cluster.cli_outcome import ExitCode, report
from agentflow.cluster.progress import Tally, progress_for
from agentflow.cluster.render import clean, counted, seconds_text
from agentflow.errors import AgentFlowError, Conflict, ExecutionFailed, InvalidRequest

if TYPE_CHECKING:
    from agentflow.settings import Settings

OUTPUT = Path("agentflow-report")
EXAMPLE = Path("examples") / "repository_review"


def main(arguments: list[str] | None = None) -> int:
    """The exit code. An argument names another folder to review."""
    words = sys.argv[1:] if arguments is None else arguments
    folder = os.path.realpath(words[0] if words else sysconfig.get_path("stdlib"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _demo(folder)
    except KeyboardInterrupt:
        print("\ninterrupted; the cluster is stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except (AgentFlowError, OSError) as error:
        return report(error)


def _demo(folder: str) -> ExitCode:
    from agentflow.cluster import local

    example = _example()
    settings = _own_settings()
    checks = [check for check in local.doctor(settings) if check.status != "ok"]
    if any(check.status == "fail" for check in checks):
        _say("The demo cannot run on this machine:")
        show_checks(checks, file=sys.stderr)
        return ExitCode.FAILED
    show_checks(checks, file=sys.stderr)
    started = time.monotonic()
    try:
        with telling() as tell:
            address = local.up(settings, app_dir=example, progress=tell)
        _say(f"cluster ready in {seconds_text(time.monotonic() - started)}: {address.url}")
        return _review(settings, example, folder)
    finally:
        _stop(settings)


def _example() -> Path:
    """The example's folder: of the checkout that this file is in, or below the current folder."""
    for root in (Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / EXAMPLE / "workflow.yaml").is_file():
            return root / EXAMPLE
    raise InvalidRequest(f"{EXAMPLE} is not here: run the demo in a checkout of AgentFlow")


def _own_settings() -> Settings:
    """Free ports, and the usual home; while a cluster runs there, one beside it, so that it is not disturbed.

    The home stays, so that the next demo can say what changed since this one.
    """
    from agentflow.cluster.ray_head import processes
    from agentflow.settings import load_settings

    settings = load_settings(port=0, dashboard_port=0)
    if not processes(settings.home):
        return settings
    beside = load_settings(port=0, dashboard_port=0, home=settings.home / "demo")
    if processes(beside.home):
        raise Conflict("another demo runs already; wait until it has ended")
    return beside


def _review(settings: Settings, example: Path, folder: str) -> ExitCode:
    from agentflow.client import connect

    definition = read_workflow(str(example))
    with connect(home=settings.home) as flow:
        flow.workflows.put(definition)
        execution = flow.run(definition.name, {"path": folder}, version=definition.version)
        _say(f"reviewing {folder}")
        tally = Tally(step.name for step in definition.steps)
        try:
            with progress_for(tally) as progress:
                for event in execution.events():
                    progress.show(event, tally.add(event))
            result = execution.result(timeout=60)
        except KeyboardInterrupt:
            execution.cancel("the demo was interrupted")  # or the next demo would go on with it
            raise
        except ExecutionFailed as error:
            return report(error)
    paths = write_result(result, OUTPUT)
    show_summary(result["summary"])
    for path in paths[1:]:
        _show(f"  {path.resolve()}")
    return ExitCode.OK


def show_summary(summary: dict[str, Any]) -> None:
    """The few lines that say what the review found."""
    total = summary["total"]
    _show(f"\n{summary['title']}: score {total['score']:.1f} of 100 (0 is calm), review no. {summary['review']} of this folder")
    size = counted(total["packages"], "package"), counted(total["files"], "file"), counted(total["code_lines"], "code line")
    found = counted(total["complex_functions"], "complex function"), counted(total["risky_calls"], "risky call")
    _show(f"  {', '.join(size)}")
    _show(f"  {', '.join(found)}, {counted(total['todos'], 'open end')}")
    first = ", ".join(f"{item['name']} {item['score']:.1f}" for item in summary["first"])
    _show(f"  look first at: {first}")
    if summary["since"] is not None:
        _show(f"  {counted(summary['changed'], 'package')} changed since {summary['since'][:16].replace('T', ' ')} UTC")
    _show("\nThe report:")


def _stop(settings: Settings) -> None:
    """Stop the cluster whatever happened; a second Ctrl-C must not leave processes behind."""
    from agentflow.cluster import local

    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with telling() as tell:
            stopped = local.down(settings, drain=False, progress=tell)
        if stopped:
            _say("cluster stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _show(text: str) -> None:
    print(clean(text), flush=True)


def _say(text: str) -> None:
    print(clean(text), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
