"""`agentflow up`, `down`, `status` and `doctor`: the cluster on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from agentflow.cluster import render
from agentflow.cluster.cli_outcome import ExitCode
from agentflow.cluster.cli_session import Json, session_of
from agentflow.errors import ClusterDown, Unavailable

if TYPE_CHECKING:
    from agentflow.cluster.local import Check
    from agentflow.cluster.state import ClusterAddress

STATE = ("ready", "reason", "executions_running", "agents", "tools")
MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Shows what goes on, on stderr: a spinner with one changing line on a terminal, else a line each."""
    if not sys.stderr.isatty():
        yield lambda text: print(render.clean(text), file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("…") as status:
        yield lambda text: status.update(escape(render.clean(text)))


def up(
    app_dir: Annotated[
        Path | None, typer.Option(help="Folder with your agents and tools; the current one if not given.", file_okay=False)
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = None,
    as_json: Json = False,
) -> None:
    """Start a cluster on this machine and show its addresses. If one runs already, say so."""
    from agentflow.cluster import local
    from agentflow.settings import load_settings

    settings = load_settings(app_dir=app_dir, port=port)
    with telling() as tell:
        address = local.up(settings, app_dir=settings.app_dir or Path.cwd(), progress=tell)
    if as_json:
        render.write_json({"already_running": not address.fresh, **address_member(address)})
        return
    took = render.seconds_text(address.seconds.get("total", 0.0))
    print(f"AgentFlow is ready, after {took}" if address.fresh else "AgentFlow runs already")
    show_address(address)
    if not address.fresh and app_dir is not None and app_dir.absolute() != Path(address.app_dir):
        print(f"its application folder is {address.app_dir}: `agentflow down` first, to start one with {app_dir}", file=sys.stderr)


def down(
    drain: Annotated[bool, typer.Option("--drain", help="First wait until no execution runs, ten minutes at most.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the cluster on this machine. What is not finished goes on after the next `up`."""
    from agentflow.cluster import local
    from agentflow.settings import load_settings

    settings = load_settings()
    with telling() as tell:
        stopped = local.down(settings, drain=drain, progress=tell)
    if as_json:
        render.write_json({"stopped": bool(stopped)})
    else:
        print("stopped" if stopped else "no cluster was running")


def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Show whether the cluster runs, where it listens, and what it does. Ends with 3 when it does not run or is not ready."""
    from agentflow.client.address import find_address
    from agentflow.client.calls import Call

    session = session_of(ctx)
    target = find_address(session.url, session.key)  # raises ClusterDown, with advice, when there is none
    shown: dict[str, Any] = {"url": target.url}
    address: ClusterAddress | None = None
    if target.local:
        from agentflow.cluster.state import read_address
        from agentflow.settings import load_settings

        address = read_address(load_settings())
        shown |= address_member(address) if address else {}
    try:
        with session.connected(retry_for_s=1.0) as connected:
            connected.transport.send(Call("GET", "/ready", dict))
            shown["ready"], shown["reason"] = True, ""
            shown["executions_running"] = len(list(connected.flow.executions.list(status="running", limit=1000)))
            shown["agents"], shown["tools"] = len(connected.flow.agents()), len(connected.flow.tools())
    except (Unavailable, ClusterDown) as error:
        shown["ready"], shown["reason"] = False, _local_reason() if target.local else error.message
    if as_json:
        render.write_json(shown)
    else:
        if address is not None:
            show_address(address)
        render.pairs({name.replace("_", " "): plain(shown[name]) for name in STATE if name in shown})
    if not shown["ready"]:
        raise typer.Exit(ExitCode.UNREACHABLE)


def _local_reason() -> str:
    """Why the cluster of this machine does not answer, from its processes."""
    from agentflow.cluster import local
    from agentflow.settings import load_settings

    return local.status(load_settings()).message or "it did not answer, and does now: ask again"


def doctor(as_json: Json = False) -> None:
    """Check whether this machine can run a cluster, and say what to do about each finding. Changes nothing."""
    from agentflow.cluster import local
    from agentflow.settings import load_settings

    checks = local.doctor(load_settings())
    if as_json:
        members = [{"name": check.name, "status": check.status, "message": check.message, "advice": check.advice} for check in checks]
        render.write_json({"checks": members})
    else:
        show_checks(checks)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def show_checks(checks: Iterable[Check], *, file: IO[str] | None = None) -> None:
    """One line a check, with advice below those that are not ok."""
    for check in checks:
        print(render.clean(f"{MARKS[check.status]}  {check.name}: {check.message}"), file=file)
        if check.status != "ok" and check.advice:
            print(render.clean(f"      → {check.advice}"), file=file)


def show_address(address: ClusterAddress) -> None:
    """The URLs, what listens where, and where the key lies; never the key itself."""
    listeners = [f"{listener.host}:{listener.port}  {listener.what}" for listener in address.listeners]
    render.pairs(
        {
            "API": address.url,
            "docs": address.docs_url,
            "Ray dashboard": address.dashboard_url,
            "key": f"in {address.key_file} (this command line finds it)",
            "Ray token": f"in {address.token_file}",
            "agents, tools": f"from {address.app_dir}",
            "PostgreSQL": "embedded, on this machine only" if address.embedded_postgres else "AGENTFLOW_DATABASE_URL",
            "listens": "\n".join(listeners),
        }
    )


def address_member(address: ClusterAddress) -> dict[str, Any]:
    """The JSON of an address; what only a Ray driver needs is left out."""
    member = asdict(address) | {"docs_url": address.docs_url}
    for name in ("fresh", "ray_environment", "run_folder", "pids"):
        del member[name]
    return member


def plain(value: Any) -> str:
    """A member as text: yes and no for truth."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
