"""How a step, an effect or an execution failed, as a value: it is stored, shown and matched by `retryOn`."""

from __future__ import annotations

from dataclasses import dataclass

MESSAGE_LIMIT_CHARS = 4_000
"""A failure's message is cut here; the whole traceback goes to the actor's log."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`code` is stable: an AgentFlow code, a sandbox outcome (`sandbox_timeout`, `sandbox_oom`, …), or the snake_case name of the
    exception that agent or tool code raised. `retryable` False ends the step whatever its retry policy says."""

    code: str
    message: str
    retryable: bool = True

    @staticmethod
    def of(code: str, message: str, *, retryable: bool = True) -> Failure:
        """A failure whose message is made safe to store: cut, NUL and lone surrogates escaped."""
        text = message.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
        if len(text) > MESSAGE_LIMIT_CHARS:
            text = text[: MESSAGE_LIMIT_CHARS - 1] + "…"
        return Failure(code, text, retryable)
