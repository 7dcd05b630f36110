"""Sessions from a driver: two people talk to one agent, each in a session of their own. Starts a cluster for itself, and stops it.

python examples/sessions.py
"""

from __future__ import annotations

from pathlib import Path

import agentflow

APP = Path(__file__).parent / "notebook"


def main() -> None:
    with agentflow.connect(start=True, app_dir=APP) as flow:
        for person, note in (("ada", "call Charles about the engine"), ("ada", "write note G"), ("grace", "find the moth")):
            print(person, flow.say("notebook", person, {"note": note}))
        print("ada", flow.say("notebook", "ada", {"find": "engine"}))
        print("grace", flow.say("notebook", "grace", {"find": "engine"}))


if __name__ == "__main__":
    main()
