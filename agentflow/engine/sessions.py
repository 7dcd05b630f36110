"""Who may write a session now: one step at a time, in the order they came."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentflow.engine.decide import Outgoing

SessionKey = tuple[str, str, str]
"""Tenant, the agent's import path, session id."""
Holder = tuple[str, str]
"""Execution id, step key."""


@dataclass(slots=True)
class Session:
    """`version`: of the state in the store; None until it was read. `queue`: who waits, in order."""

    holder: Holder
    version: int | None = None
    queue: dict[Holder, Outgoing] = field(default_factory=dict)


class Sessions:
    """The sessions that are in use. One that nobody uses is forgotten; its row is the truth."""

    def __init__(self) -> None:
        self._sessions: dict[SessionKey, Session] = {}
        self._held: dict[Holder, SessionKey] = {}

    def enter(self, key: SessionKey, execution_id: str, outgoing: Outgoing) -> Session | None:
        """The session if the step may use it now; None if it was queued behind others. A step that waits already keeps its place."""
        holder = (execution_id, outgoing.step)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = Session(holder)
            self._held[holder] = key
            return session
        if session.holder == holder:
            return session
        session.queue[holder] = outgoing
        return None

    def held_by(self, execution_id: str, step: str) -> tuple[SessionKey, Session] | None:
        """The session that this step holds."""
        key = self._held.get((execution_id, step))
        return None if key is None else (key, self._sessions[key])

    def leave(self, execution_id: str, step: str) -> tuple[str, Outgoing] | None:
        """The step is done with its session. Returns the first who waited, which holds it from now on: send it, or let it leave."""
        key = self._held.pop((execution_id, step), None)
        if key is None:
            return None
        session = self._sessions[key]
        if not session.queue:
            del self._sessions[key]
            return None
        holder = next(iter(session.queue))
        outgoing = session.queue.pop(holder)
        session.holder, session.version = holder, None
        self._held[holder] = key
        return holder[0], outgoing
