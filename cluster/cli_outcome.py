"""How a command ends: exit codes that scripts can use, and one clear line on stderr for every error."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from agentflow import errors
from agentflow.cluster.render import clean


class ExitCode(IntEnum):
    """Public and stable; docs/cli.md and `agentflow --help` list them."""

    OK = 0
    FAILED = 1
    """The execution failed or was cancelled; a check of `doctor` failed."""
    USAGE = 2
    """Wrong options, an invalid definition, an input that does not fit, too large, or a feature that is not there yet."""
    UNREACHABLE = 3
    """No cluster runs here, it cannot be reached, or it cannot take the request now."""
    NOT_FOUND = 4
    CONFLICT = 5
    FORBIDDEN = 6
    """No key, an unknown key, or one that may not do this."""
    INTERNAL = 70
    """A bug in AgentFlow; `--debug` shows the traceback."""
    INTERRUPTED = 130
    """Ctrl-C."""


HELP = (
    "Exit codes: 0 ok, 1 the execution or a check failed, 2 usage, invalid definition or input, 3 no cluster runs or it cannot be reached, "
    "4 not found, 5 conflict, 6 no key or not allowed, 70 a bug in AgentFlow, 130 interrupted."
)

# The first class that matches decides, so the special ones stand before their parents.
CODES: tuple[tuple[type[errors.AgentFlowError], ExitCode], ...] = (
    (errors.ExecutionFailed, ExitCode.FAILED),
    (errors.StepFailed, ExitCode.FAILED),
    (errors.InvalidRequest, ExitCode.USAGE),
    (errors.PayloadTooLarge, ExitCode.USAGE),
    (errors.Unauthenticated, ExitCode.FORBIDDEN),
    (errors.Forbidden, ExitCode.FORBIDDEN),
    (errors.NotFound, ExitCode.NOT_FOUND),
    (errors.Conflict, ExitCode.CONFLICT),
    (errors.ClusterDown, ExitCode.UNREACHABLE),
    (errors.Unavailable, ExitCode.UNREACHABLE),
    (errors.Busy, ExitCode.UNREACHABLE),
    (errors.CommitUnknown, ExitCode.UNREACHABLE),
    (errors.Fenced, ExitCode.UNREACHABLE),
    (errors.SandboxRefused, ExitCode.UNREACHABLE),
)

ADVICE = {
    "unauthenticated": "`agentflow up` prints where the key lies; give another one with --key or AGENTFLOW_KEY",
    "conflict": "a stored version never changes: raise `version` in the file",
    "idempotency_conflict": "use a new --idempotency-key, or the very same workflow and input",
}
"""Said when the error's own message may not know how this command line is used."""


def exit_code(error: errors.AgentFlowError) -> ExitCode:
    for kind, code in CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


class Guarded(TyperGroup):
    """The root command: turns what commands raise into one line and an exit code; a traceback only with `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (TyperException, typer.Exit, typer.Abort, BrokenPipeError):
            raise  # Typer shows usage errors, and ends quietly when nobody reads the output
        except Exception as error:  # noqa: BLE001 top of the program
            if ctx.params.get("debug"):
                traceback.print_exc()
            raise typer.Exit(report(error)) from None


def report(error: Exception) -> ExitCode:
    """The error on stderr: `error: message [code]`, then what to do, and the places of a definition's or input's errors."""
    if isinstance(error, OSError):
        say_error("os_error", f"{error.filename or 'I/O'}: {error.strerror or error}", "")
        return ExitCode.FAILED
    if not isinstance(error, errors.AgentFlowError):
        say_error("internal", f"{type(error).__name__}: {error}", "this is a bug in AgentFlow; run it again with `agentflow --debug …`")
        return ExitCode.INTERNAL
    located = error.facts.get("errors")
    if isinstance(error, errors.WorkflowInvalid) and located:
        for item in located:
            print(clean(f"{item['file']}:{item['line']}:{item['column']}: {item['message']} [{item['code']}]"), file=sys.stderr)
        total = error.facts.get("total", len(located))
        say_error(error.code, f"{total} error{'' if total == 1 else 's'} in the definition; nothing was run", "")
        return ExitCode.USAGE
    advice = ADVICE.get(error.code, "")
    if isinstance(error, errors.InputInvalid) and located:
        for item in located:
            print(clean(f"input{item['path']}: {item['message']}"), file=sys.stderr)
    say_error(error.code, error.message, "" if advice and _says(error.message, advice) else advice)
    return exit_code(error)


def say_error(code: str, message: str, advice: str) -> None:
    lines = clean(message).strip().split("\n")
    print(f"error: {lines[0]} [{code}]", file=sys.stderr)
    for line in lines[1:]:
        print(f"  {line}", file=sys.stderr)
    if advice:
        print(f"  → {advice}", file=sys.stderr)


def _says(message: str, advice: str) -> bool:
    """Whether the message names the same command already."""
    return any(part in message for part in advice.split("`")[1::2])
