"""The guest's main program: says that it is ready, takes one call, answers it, ends.

Two frames come in on fd 0 (the call; its arguments). Out on fd 1 go a frame that says "ready" and, at the end, one that
says how the call ended, followed by one with the value when it ended well. What the tool prints goes to fd 2: the host
keeps what it wants of it, also when this process dies. The answer is only a claim: the tool shares this process and may
write what it likes, so the host believes nothing but its size and its shape.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import json
import linecache
import math
import os
import resource
import signal
import sys
import time
import traceback
import types
from typing import Any

from . import frames, seccomp, shim, values

MESSAGE_CHARACTERS = 6000
TRACEBACK_LINES = 12
RESERVE_BYTES = 16 << 20
"""Address space kept back from the tool, so that there is room to say that it ran out."""
WARM_MODULES: tuple[str, ...] = ("ast", "base64", "collections", "csv", "dataclasses", "datetime", "decimal", "functools", "hashlib")
WARM_MODULES += ("itertools", "pathlib", "random", "re", "statistics", "string", "textwrap", "typing")


class CpuSpent(BaseException):
    """Raised in the tool by SIGXCPU. Not an Exception, so that `except Exception` does not swallow it."""


def main(mode: str) -> None:
    """`mode`: `warm` (imports what tools like beforehand), `cold`, or `bare` (on the host itself: no seccomp)."""
    incoming, outgoing = _take_pipes()
    if mode == "bare":
        _die_with_parent()
    else:
        seccomp.deny_user_namespaces()
    if mode == "warm":
        for name in WARM_MODULES:
            __import__(name)
    shim.install()
    frames.write_frame(outgoing, json.dumps({"ready": True, "python": sys.version.split()[0]}).encode())
    try:
        call = json.loads(frames.read_frame(incoming))
        arguments = frames.read_frame(incoming)
    except frames.HostGone:
        os._exit(0)
    os.close(incoming)
    head, value = _answer(call, arguments)
    frames.write_frame(outgoing, json.dumps(head).encode())
    if value is not None:
        frames.write_frame(outgoing, value)
    os._exit(0)  # as pid 1 this ends every process of the sandbox; threads cannot hold it up


def _take_pipes() -> tuple[int, int]:
    """Keep the pipes to the host for ourselves: the tool's stdin is empty, its stdout and stderr are fd 2."""
    incoming, outgoing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    return incoming, outgoing


def _die_with_parent() -> None:
    """On Linux: end when the thread of the host that started us ends. Elsewhere the end of fd 0 must do."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() == 1:  # it died before we asked
            os._exit(0)


def _answer(call: dict[str, Any], arguments: bytes) -> tuple[dict[str, Any], bytes | None]:
    started = time.process_time()
    head: dict[str, Any]
    value: bytes | None = None
    try:
        signal.signal(signal.SIGXCPU, _cpu_spent)
        _limit(call["limits"])
        value = values.encode(_run(call, json.loads(arguments)))
        if len(value) > call["reply_bytes"]:
            text = (
                f"the returned value is {len(value)} bytes of JSON, the limit is {call['reply_bytes']} (reply_bytes of the tool's profile)"
            )
            head, value = {"kind": "error", "message": text, "error_type": "ValueTooLarge"}, None
        else:
            head = {"kind": "ok"}
    except BaseException as error:  # noqa: BLE001 - the top of this program: whatever the tool raised is its answer
        signal.signal(signal.SIGXCPU, signal.SIG_IGN)
        value = None
        head = _ended_by(error, call)
        error.__traceback__ = None
    _flush()
    head["cpu_s"] = time.process_time() - started
    head["memory_peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return head, value


def _run(call: dict[str, Any], arguments: dict[str, Any]) -> Any:
    """Load the tool's module from its text and call the function."""
    name = call["module"]
    file_name = name.replace(".", "/") + ".py"
    linecache.cache[file_name] = (len(call["source"]), None, call["source"].splitlines(True), file_name)
    module = types.ModuleType(name)
    module.__file__ = file_name
    sys.modules[name] = module
    exec(compile(call["source"], file_name, "exec", dont_inherit=True), module.__dict__)
    function: Any = module
    for part in call["function"].split("."):
        try:
            function = getattr(function, part)
        except AttributeError:
            raise AttributeError(f"module {name} has no function {call['function']!r}") from None
    result = function(**arguments)
    if inspect.isawaitable(result):
        import asyncio

        result = asyncio.run(_wait(result))
    return result


async def _wait(result: Any) -> Any:
    return await result


def _limit(limits: dict[str, Any]) -> None:
    """Bound this process. The hard limits are just above: enough for us to answer, not for the tool to get around them."""
    address_space, cpu_s, file_bytes = limits.get("address_space_bytes"), limits.get("cpu_s"), limits.get("file_bytes")
    if address_space and sys.platform == "linux":
        _lower(resource.RLIMIT_AS, address_space, address_space + RESERVE_BYTES)
    if cpu_s:
        soft = math.ceil(time.process_time() + cpu_s)
        _lower(resource.RLIMIT_CPU, soft, soft + 1)
    if file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails with EFBIG, which the tool can read
        _lower(resource.RLIMIT_FSIZE, file_bytes, file_bytes)
    _lower(resource.RLIMIT_CORE, 0, 0)


def _lower(what: int, soft: int, hard: int) -> None:
    """Set a limit, or keep what is there if that is lower already."""
    _, ceiling = resource.getrlimit(what)
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(what, (soft, hard))


def _cpu_spent(number: int, frame: Any) -> None:
    raise CpuSpent


def _ended_by(error: BaseException, call: dict[str, Any]) -> dict[str, Any]:
    if isinstance(error, MemoryError):
        _free(error)
        return {
            "kind": "memory",
            "message": f"MemoryError: the tool may use {call['limits'].get('address_space_bytes')} bytes of address space",
        }
    if isinstance(error, CpuSpent):
        return {"kind": "cpu", "message": f"the tool used up its {call['limits'].get('cpu_s')} s of CPU time"}
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return {"kind": "exit", "exit_code": (error.code or 0) & 0xFF}
        return {"kind": "exit", "exit_code": 1, "message": _cut(str(error.code))}
    return {"kind": "error", "message": _describe(error), "error_type": type(error).__name__[:200]}


def _free(error: BaseException) -> None:
    """Let go of what the tool's frames hold, and use the reserve: describing the end needs memory too."""
    try:
        traceback.clear_frames(error.__traceback__)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    except (MemoryError, OSError, ValueError):
        pass


def _describe(error: BaseException) -> str:
    """`Type: text` first, then the last lines of the traceback, without our own frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, values.__file__):
        trace = trace.tb_next
    try:
        told = traceback.TracebackException(type(error), error, trace, limit=-TRACEBACK_LINES)
        summary = "".join(told.format_exception_only()).strip()
        frames_text = "".join(told.stack.format()).rstrip()
    except Exception as broken:  # noqa: BLE001 - the tool's exception decides what its own text does
        return f"{type(error).__name__} (and describing it failed with {type(broken).__name__})"
    return _cut(summary + ("\n" + frames_text if frames_text else ""))


def _cut(text: str) -> str:
    half = MESSAGE_CHARACTERS // 2
    return text if len(text) <= MESSAGE_CHARACTERS else text[:half] + "\n[...]\n" + text[-half:]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the tool may have closed or replaced it
            stream.flush()
