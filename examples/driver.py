"""A driver script: runs the repository review on a folder, shows its events live, and writes the report beside it.

agentflow up --app-dir examples/repository_review
python examples/driver.py src
"""

from __future__ import annotations

import sys
from pathlib import Path

import agentflow

WORKFLOW = Path(__file__).parent / "repository_review" / "workflow.yaml"


def main(folder: str) -> None:
    with agentflow.connect() as flow:  # the running cluster, or start=True for one of its own
        flow.workflows.put(WORKFLOW)
        execution = flow.run("repository-review", input={"path": folder})
        for event in execution.events():  # live, resumable by seq
            print(event.seq, event.kind, event.step or "")
        report = execution.result()
    Path("report.html").write_text(report["html"], encoding="utf-8")
    print(f"score {report['summary']['total']['score']}; the report is in report.html")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".")
