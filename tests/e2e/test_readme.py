"""The README, done as it is written: its commands, its script and its files are taken out of it and run against a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentflow.adapters.embedded_postgres import EmbeddedPostgres
from agentflow.cluster.ray_head import processes

if TYPE_CHECKING:
    from tests.conftest import RunningCluster

pytestmark = [pytest.mark.ray, pytest.mark.runsc, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEFAULT_URL = "http://127.0.0.1:8000"
COMMAND_TIMEOUT_S = 180


def block(marker: str) -> str:
    """The code block behind `<!-- marker -->`."""
    found = re.findall(rf"^<!-- {re.escape(marker)} -->\n```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"{len(found)} blocks are marked {marker!r} in README.md"
    return str(found[0])


@dataclass(frozen=True, slots=True)
class Desk:
    """A newcomer's folder and shell: a home of their own, and nothing of AgentFlow in the environment but what is said."""

    folder: Path
    environment: dict[str, str]

    def sh(self, script: str, *, code: int = 0) -> str:
        """stdout of a script that must end with `code`; it stops at the first command that fails."""
        return self.run(["bash", "-euo", "pipefail", "-c", script], code=code)

    def run(self, words: list[str], *, code: int = 0) -> str:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout


def desk_in(folder: Path, home: Path, **settings: str) -> Desk:
    folder.mkdir()
    home.mkdir(exist_ok=True)
    (folder / ".venv").symlink_to(sys.prefix)  # where `make setup` puts it
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTFLOW_", "RAY_", "VIRTUAL_ENV"))}
    mark = {name: value for name, value in os.environ.items() if name == "AGENTFLOW_TEST_SESSION"}
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return Desk(folder, inherited | mark | {"HOME": str(home), "PATH": path, "COLUMNS": "200"} | settings)


@pytest.fixture(scope="module")
def desk(cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """At the session's cluster, in a folder that looks like a checkout."""
    place = tmp_path_factory.mktemp("readme")
    found = desk_in(place / "checkout", place / "home", AGENTFLOW_HOME=str(cluster.settings.home))
    (found.folder / "examples").symlink_to(ROOT / "examples")
    (place / "home" / ".agentflow").symlink_to(cluster.settings.home)  # for ~/.agentflow/key
    return found


@pytest.fixture(scope="module")
def toured(desk: Desk) -> str:
    """What the first commands say; they store the workflow, and everything behind them in the README needs that."""
    return desk.sh(block("run: tour"))


def test_the_first_commands_review_a_folder_and_write_the_report(desk: Desk, toured: str) -> None:
    assert "API " in toured and "repository-review" in toured
    assert (desk.folder / "reports" / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_driver_script_prints_every_event_and_the_summary(desk: Desk, toured: str) -> None:
    lines = desk.run([sys.executable, "-c", block("run: driver")]).splitlines()

    numbers = [int(line.partition(" ")[0]) for line in lines[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert lines[-2].endswith("execution.completed")
    assert "'total'" in lines[-1]


def test_the_curl_commands_get_their_answers(desk: Desk, toured: str, cluster: RunningCluster) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    script = block("run: http")
    assert DEFAULT_URL in script

    output = desk.sh(script.replace(DEFAULT_URL, cluster.url))

    saved = desk.folder / "reports" / "answer.json"
    answer = json.loads(saved.read_text(encoding="utf-8"))
    assert answer["status"] == "completed"
    workflows, _, rest = output.partition("\n")
    assert '"repository-review"' in workflows
    assert '"kind":"execution.started"' in rest and "event: execution.completed" in rest

    again = desk.sh(script.replace(DEFAULT_URL, cluster.url))
    assert json.loads(saved.read_text(encoding="utf-8"))["id"] == answer["id"], "the same key, another execution"
    assert again.count("event: execution.completed") == 1


def test_every_line_of_the_command_line_section_works(desk: Desk, toured: str, cluster: RunningCluster) -> None:
    section = README.partition("**The command line** in six lines")[2].partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("#")[0].strip() for line in section.splitlines()]
    assert len(lines) == 6
    execution = json.loads(desk.sh("agentflow executions list --json"))["executions"][0]["id"]
    meant = {
        "FILE...": "examples/repository_review/workflow.yaml",
        "WORKFLOW": "repository-review",
        "key=value": "path=examples",
        "DIR": "out",
        "ID": execution,
        "URL": cluster.url,
        "COMMAND ...": "agents",
    }
    for line in lines:
        for name, value in meant.items():
            line = re.sub(rf"(?<![\w-]){re.escape(name)}(?!\w)", value, line)
        first, *others = [part.strip() for part in line.split(" | ")]
        group = first.split()[:2] if "executions" in first else ["agentflow"]
        for command in (first, *(f"{' '.join(group)} {other}" for other in others)):
            if command == "agentflow down":
                continue  # the session's cluster stays; the last test stops its own
            desk.sh(command, code=5 if " cancel " in command else 0)  # 5: it has ended already
    assert (desk.folder / "out" / "report.html").is_file()


def test_the_application_of_the_readme_runs_on_a_cluster_of_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    desk = desk_in(tmp_path / "app", home, AGENTFLOW_PORT="0", AGENTFLOW_DASHBOARD_PORT="0")
    (desk.folder / "team").mkdir()
    (desk.folder / "team" / "__init__.py").touch()
    for name in re.findall(r"^<!-- file: (\S+) -->$", README, re.MULTILINE):
        (desk.folder / name).write_text(block(f"file: {name}"), encoding="utf-8")
    try:
        output = desk.sh(block("run: own"))
    finally:
        desk.sh(block("run: end"))  # what the README says last; the second time it finds nothing
        left = processes(home / ".agentflow")
        EmbeddedPostgres(home / ".agentflow").destroy()
    results = [json.loads(found) for found in re.findall(r"^\{.*?^\}", output, re.DOTALL | re.MULTILINE)]
    assert results == [{"total": 3, "grown": 3}, {"total": 5, "grown": 2}]
    assert output.rstrip().endswith("stopped")
    assert left == []
