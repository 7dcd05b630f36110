"""What goes between processes, as bytes: msgpack of the domain's dataclasses, decoded strictly. No pickle of ours travels.

Decoding what is not such bytes raises ValueError; encoding text that is not Unicode raises InvalidRequest.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentflow.domain.command import Cancel, Changes, Command, Reply, Start, SupervisorStatus
from agentflow.domain.dispatch import Dispatch, EffectReport, Holding, StepDone, StepError
from agentflow.errors import InvalidRequest
from agentflow.ports import WorkerNeed

Results = Sequence[StepDone | StepError]

# msgspec tells the members of a union apart only when they are tagged, and dataclasses are not: a union travels as one list a member.
_Deliver = tuple[list[Dispatch], list[str]]
_Delivered = tuple[list[StepDone], list[StepError], list[str]]
_Report = tuple[str, list[StepDone], list[StepError], list[EffectReport]]
_Submit = tuple[list[Start], list[Cancel], list[bool]]

_ENCODER = msgspec.msgpack.Encoder()
_DELIVER = msgspec.msgpack.Decoder(_Deliver)
_DELIVERED = msgspec.msgpack.Decoder(_Delivered)
_REPORT = msgspec.msgpack.Decoder(_Report)
_SUBMIT = msgspec.msgpack.Decoder(_Submit)
_REPLIES = msgspec.msgpack.Decoder(list[Reply])
_NAMES = msgspec.msgpack.Decoder(list[str])
_HOLDINGS = msgspec.msgpack.Decoder(list[Holding])
_CHANGES = msgspec.msgpack.Decoder(Changes)
_STATUS = msgspec.msgpack.Decoder(SupervisorStatus)
_NEED = msgspec.msgpack.Decoder(WorkerNeed)


def _encode(value: object) -> bytes:
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"a name or message has a character that is not Unicode: {error.object[max(0, error.start - 20) : error.end]!r}"
        ) from None


def encode_deliver(dispatches: Sequence[Dispatch], acknowledged: Sequence[str]) -> bytes:
    return _encode((list(dispatches), list(acknowledged)))


def decode_deliver(body: bytes) -> tuple[list[Dispatch], list[str]]:
    dispatches, acknowledged = _DELIVER.decode(body)
    return dispatches, acknowledged


def encode_delivered(results: Results, refused: Sequence[str]) -> bytes:
    done, errors = _split(results)
    return _encode((done, errors, list(refused)))


def decode_delivered(body: bytes) -> tuple[list[StepDone | StepError], list[str]]:
    done, errors, refused = _DELIVERED.decode(body)
    return [*done, *errors], refused


def encode_report(worker: str, results: Results, effects: Sequence[EffectReport]) -> bytes:
    return _encode((worker, *_split(results), list(effects)))


def decode_report(body: bytes) -> tuple[str, list[StepDone | StepError], list[EffectReport]]:
    worker, done, errors, effects = _REPORT.decode(body)
    return worker, [*done, *errors], effects


def encode_submit(commands: Sequence[Command]) -> bytes:
    """Order is kept by a list that says which of the two comes next."""
    starts = [command for command in commands if isinstance(command, Start)]
    cancels = [command for command in commands if isinstance(command, Cancel)]
    return _encode((starts, cancels, [isinstance(command, Start) for command in commands]))


def decode_submit(body: bytes) -> list[Command]:
    starts, cancels, order = _SUBMIT.decode(body)
    if (sum(order), len(order)) != (len(starts), len(starts) + len(cancels)):
        raise ValueError(f"{len(starts)} starts and {len(cancels)} cancels do not make the order {order[:20]}")
    next_start, next_cancel = iter(starts), iter(cancels)
    return [next(next_start) if is_start else next(next_cancel) for is_start in order]


def encode_replies(replies: Sequence[Reply]) -> bytes:
    return _encode(list(replies))


def decode_replies(body: bytes) -> list[Reply]:
    return _REPLIES.decode(body)


def encode_names(names: Sequence[str]) -> bytes:
    return _encode(list(names))


def decode_names(body: bytes) -> list[str]:
    return _NAMES.decode(body)


def encode_holdings(holdings: Sequence[Holding]) -> bytes:
    return _encode(list(holdings))


def decode_holdings(body: bytes) -> list[Holding]:
    return _HOLDINGS.decode(body)


def encode_changes(changes: Changes) -> bytes:
    return _encode(changes)


def decode_changes(body: bytes) -> Changes:
    return _CHANGES.decode(body)


def encode_status(status: SupervisorStatus) -> bytes:
    return _encode(status)


def decode_status(body: bytes) -> SupervisorStatus:
    return _STATUS.decode(body)


def encode_need(need: WorkerNeed) -> bytes:
    return _encode(need)


def decode_need(body: bytes) -> WorkerNeed:
    return _NEED.decode(body)


def _split(results: Results) -> tuple[list[StepDone], list[StepError]]:
    return [r for r in results if isinstance(r, StepDone)], [r for r in results if isinstance(r, StepError)]
