"""The command line `agentflow`: its commands and global options. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agentflow.cluster import cli_cluster, cli_read, cli_run
from agentflow.cluster.cli_outcome import HELP, Guarded
from agentflow.cluster.cli_session import Session

app = typer.Typer(
    name="agentflow",
    cls=Guarded,
    help="AgentFlow runs teams of agents as durable, distributed actors.",
    epilog=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
executions = typer.Typer(help="List, show, follow and cancel executions.", no_args_is_help=True)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"agentflow {version('agentflow')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    url: Annotated[str | None, typer.Option(help="A cluster's API; the local one if not given. Also AGENTFLOW_URL.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="The API key; the local cluster's own if not given. Safer in AGENTFLOW_KEY, where `ps` does not show it."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    ctx.obj = Session(url=url, key=key)


app.command()(cli_cluster.up)
app.command()(cli_cluster.down)
app.command()(cli_cluster.status)
app.command()(cli_cluster.doctor)
app.command()(cli_run.validate)
app.command()(cli_run.run)
app.add_typer(executions, name="executions")
executions.command("list")(cli_read.list_executions)
executions.command("show")(cli_read.show_execution)
executions.command("events")(cli_read.show_events)
executions.command("cancel")(cli_read.cancel_execution)
app.command()(cli_read.workflows)
app.command()(cli_read.agents)
app.command()(cli_read.tools)


def main() -> None:
    """Entry point of the program; ends with one of the exit codes of `ExitCode`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character must not end the program
    app(prog_name="agentflow")


if __name__ == "__main__":
    main()
