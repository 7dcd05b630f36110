"""An agent that keeps notes: each session is a notebook of its own, stored in PostgreSQL with every reply."""

from __future__ import annotations

from typing import Any

from agentflow import Agent, Context


class Notebook(Agent):
    """Keeps notes. Say {"note": text} to add one, {"find": word} to look for them."""

    def run(self, context: Context, input: dict[str, str]) -> dict[str, Any]:
        notes = context.state.setdefault("notes", [])
        if "note" in input:
            notes.append({"text": input["note"], "at": context.started_at.isoformat(timespec="seconds")})
            return {"notes": len(notes)}
        word = input["find"].lower()
        return {"found": [note["text"] for note in notes if word in note["text"].lower()]}
