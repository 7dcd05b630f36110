"""The host's end of the two pipes to a guest: frames, and what may be believed of an answer.

The guest runs code that is not ours in the same process that answers, so an answer is taken only if its shape and size are
right; everything else is a `crash`. It can lie about its own value, never about another call: a channel serves one.
"""

from __future__ import annotations

import asyncio
import json
import math
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass
from typing import Any

import msgspec

from agentflow.domain.sandbox import OutcomeKind, Profile, SandboxCall

HEAD_LIMIT_BYTES = 64 << 10
_CLAIMABLE = {kind.value: kind for kind in (OutcomeKind.OK, OutcomeKind.EXIT, OutcomeKind.ERROR, OutcomeKind.MEMORY, OutcomeKind.CPU)}
"""How a guest may say that its call ended; the other kinds are for the host to find out."""


class GuestEnded(Exception):
    """The pipe closed before the answer was complete."""


class BadAnswer(Exception):
    """The guest sent what no honest guest sends; the text says what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How the guest says that the call ended. `value`: checked JSON, at most the profile's reply_bytes, only when ok."""

    kind: OutcomeKind
    value: bytes | None
    message: str
    exit_code: int | None
    error_type: str
    cpu_s: float | None
    memory_peak_bytes: int | None


async def await_ready(reader: StreamReader) -> str:
    """Wait until the guest has started; its Python version. Raises GuestEnded, BadAnswer."""
    head = _object(await _frame(reader, limit=4096))
    if head.get("ready") is not True:
        raise BadAnswer("the guest's first frame does not say that it is ready")
    return _text(head, "python")


async def exchange(reader: StreamReader, writer: StreamWriter, call: SandboxCall, *, file_bytes: int | None = None) -> Answer:
    """Give the call to a guest that is ready, and wait for its answer, at most the profile's wall_s.

    `file_bytes`: limit of one file, where the file system has none. Raises TimeoutError, GuestEnded, BadAnswer.
    """
    async with asyncio.timeout(call.profile.wall_s):
        await _send(writer, call, file_bytes)
        return await _answer(reader, call)


async def _send(writer: StreamWriter, call: SandboxCall, file_bytes: int | None) -> None:
    profile = call.profile
    limits = {"address_space_bytes": profile.address_space_bytes, "cpu_s": cpu_budget_s(profile), "file_bytes": file_bytes}
    head = {"source": call.source, "module": call.module, "function": call.function, "limits": limits, "reply_bytes": profile.reply_bytes}
    try:
        for body in (json.dumps(head).encode("ascii"), call.arguments):
            writer.write(len(body).to_bytes(4, "big") + body)
        await writer.drain()
    except (BrokenPipeError, ConnectionResetError):
        raise GuestEnded from None


async def _answer(reader: StreamReader, call: SandboxCall) -> Answer:
    head = _object(await _frame(reader, limit=HEAD_LIMIT_BYTES))
    kind = _CLAIMABLE.get(_text(head, "kind"))
    if kind is None:
        raise BadAnswer(f"an answer of kind {str(head.get('kind'))[:40]!r}")
    value: bytes | None = None
    if kind is OutcomeKind.OK:
        value = await _frame(reader, limit=call.profile.reply_bytes)
        if not await _is_json(value):
            raise BadAnswer("a value that is not JSON")
    exit_code = head.get("exit_code")
    return Answer(
        kind=kind,
        value=value,
        message=_text(head, "message"),
        exit_code=exit_code if type(exit_code) is int and 0 <= exit_code <= 255 else None,
        error_type=_text(head, "error_type")[:200],
        cpu_s=_figure(head.get("cpu_s")),
        memory_peak_bytes=_bytes(head.get("memory_peak_bytes")),
    )


def cpu_budget_s(profile: Profile) -> float:
    """CPU seconds that the tool's process may use. Without one of its own: as much as its cores give in its wall time."""
    return profile.cpu_s if profile.cpu_s is not None else profile.wall_s * max(1.0, profile.cpu)


async def _frame(reader: StreamReader, *, limit: int) -> bytes:
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        if length > limit:
            raise BadAnswer(f"a frame of {length} bytes; {limit} is the limit")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        raise GuestEnded from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        head = json.loads(body.decode("ascii"))
    except (ValueError, RecursionError):
        raise BadAnswer("a frame that is not JSON") from None
    if not isinstance(head, dict):
        raise BadAnswer("a frame that is not a JSON object")
    return head


def _text(head: dict[str, Any], key: str) -> str:
    value = head.get(key, "")
    if not isinstance(value, str):
        raise BadAnswer(f"an answer whose {key} is not text")
    return value


def _figure(value: Any) -> float | None:
    """A number that a guest reports of itself; anything odd is as good as none."""
    return float(value) if type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e9 else None


def _bytes(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 50 else None


async def _is_json(body: bytes) -> bool:
    if len(body) > 64 << 10:
        return await asyncio.to_thread(_parses, body)
    return _parses(body)


def _parses(body: bytes) -> bool:
    """Strictly: ASCII (as the guest writes it, so no other encodings), no NaN. Lone surrogates as escapes are fine."""
    if not body.isascii():
        return False
    try:
        msgspec.json.decode(body)
    except RecursionError:
        return False
    except msgspec.DecodeError:
        try:
            json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
