"""The documentation holds what it says: links, settings, public names, words, and every block of Python, YAML and shell in it."""

from __future__ import annotations

import ast
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

import agentflow
from agentflow.domain.event import EVENT_KINDS
from agentflow.engine.definition import load_workflow
from agentflow.errors import AgentFlowError
from agentflow.settings import Settings
from agentflow.telemetry import names

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
WORDS = (
    *("workflow", "execution", "step", "attempt", "effect", "event", "journal", "replay", "planner", "plan", "decision", "timer", "signal"),
    *("agent", "session", "message", "envelope", "mailbox", "tell", "ask", "supervisor", "directive", "shard", "fencing token", "dispatch"),
    *("activation", "passivation", "tool", "sandbox", "profile", "chat model", "tenant", "principal", "role", "quota", "budget", "port"),
    *("adapter", "dead letter"),
)
"""The words that everything else is built of."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page; `line` is that of its first line of text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
            indent = len(found[1])
            body = "".join(line[indent:] for line in found[3].splitlines(keepends=True))
            yield Block(page, text[: found.start(3)].count("\n") + 1, found[2], body)


def of(language: str) -> list[Block]:
    return [block for block in blocks() if block.language == language]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of the page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


# ---------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    """`docs/x.md`, `engine/decide.py`: paths in backticks, from the root, from the package, or beside the page."""
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|sql|yaml|toml|sh|svg|json))`", prose(page))
    made = {"team", "app", "logs", "reports"}  # what the reader makes, or what a cluster writes
    places = (ROOT, ROOT / "agentflow", page.parent, ROOT / "examples" / "repository_review")
    missing = [name for name in named if name.split("/")[0] not in made and not any((place / name).exists() for place in places)]
    assert missing == []


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = [page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md") if page != DOCS / "README.md"]
    assert [page for page in pages if f"]({page})" not in index] == []


def test_pictures_need_nothing_from_outside() -> None:
    for picture in DOCS.glob("*.svg"):
        text = picture.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
        assert re.findall(r"(?:href|src)=\"(?!#)", text) == []
        assert set(re.findall(r"https?://[^\"\s]+", text)) == {"http://www.w3.org/2000/svg"}


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", agentflow.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    page = (DOCS / "agents.md").read_text(encoding="utf-8")
    section = page.partition("## Public names")[2]
    assert f"`{name}`" in section


def test_no_public_name_is_documented_that_is_not_there() -> None:
    section = (DOCS / "agents.md").read_text(encoding="utf-8").partition("## Public names")[2]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(agentflow.__all__)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_page_of_settings(name: str) -> None:
    assert f"| `AGENTFLOW_{name.upper()}` |" in (DOCS / "settings.md").read_text(encoding="utf-8")


def test_every_variable_that_a_page_names_exists() -> None:
    known = {f"AGENTFLOW_{name.upper()}" for name in Settings.model_fields}
    known |= {"AGENTFLOW_URL", "AGENTFLOW_KEY", "AGENTFLOW_CLUSTER", "AGENTFLOW_TEST_SESSION"}
    wrong = {
        (page.name, name) for page in PAGES for name in re.findall(r"\bAGENTFLOW_[A-Z0-9_]+[A-Z0-9]\b", page.read_text(encoding="utf-8"))
    }
    assert {found for found in wrong if found[1] not in known} == set()


def test_limits_in_the_readme_are_the_defaults() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Limits")[2].partition("\n## ")[0]
    default = {name: field.default for name, field in Settings.model_fields.items()}
    shown = {
        "payload_limit_bytes": f"{default['payload_limit_bytes'] >> 20} MiB",
        "output_limit_bytes": f"{default['output_limit_bytes'] >> 20} MiB",
        "execution_event_limit": f"{default['execution_event_limit']:,}",
        "step_crash_limit": str(default["step_crash_limit"]),
        "agent_mailbox_limit": f"{default['agent_mailbox_limit']:,}",
        "agent_idle_s": f"{default['agent_idle_s']:g} s",
        "sandbox_pool_size": str(default["sandbox_pool_size"]),
        "sandbox_queue_limit": str(default["sandbox_queue_limit"]),
    }
    for name, text in shown.items():
        rows = [row for row in section.splitlines() if f"`AGENTFLOW_{name.upper()}`" in row]
        assert len(rows) == 1 and text in rows[0].split("|")[2], f"{name} is {text}"


@pytest.mark.parametrize("kind", EVENT_KINDS)
def test_every_kind_of_event_is_explained(kind: str) -> None:
    assert f"| `{kind}` |" in (DOCS / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("metric", names.ALL, ids=lambda metric: metric.name)
def test_every_metric_is_listed(metric: names.MetricName) -> None:
    assert f"`{metric.name}`" in (DOCS / "operations.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_in_the_glossary(word: str) -> None:
    assert f"**{word}**" in (DOCS / "glossary.md").read_text(encoding="utf-8").lower()


def test_decisions_are_numbered_without_gaps_and_short() -> None:
    pages = sorted((DOCS / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert all(part in text for part in ("Status: ", "## Context", "## Decision", "## Consequences")), page.name
        assert len(text.split()) < 700, f"{page.name} is longer than a page"


# ---------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_blocks_compile(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", of("python"), ids=str)
def test_python_blocks_import_what_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module == "agentflow":
            assert [alias.name for alias in node.names if alias.name not in agentflow.__all__] == []


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_blocks_are_workflows_that_load_or_parts_that_parse(block: Block) -> None:
    try:
        if block.text.startswith("apiVersion:"):
            load_workflow(block.text, file=str(block))
        else:
            yaml.safe_load(block.text)
    except AgentFlowError as error:
        pytest.fail(f"{error}\n{error.facts.get('errors')}")


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_shell_blocks_parse(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_readme_marks_is_what_its_test_runs() -> None:
    """A marked block that no test runs would be a promise without proof."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tests = (ROOT / "tests" / "e2e" / "test_readme.py").read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- (run: \w+|file: \S+) -->$", readme, re.MULTILINE)
    assert len(marks) == len(set(marks)) and marks
    assert [mark for mark in marks if mark.startswith("run: ") and f'"{mark}"' not in tests] == []
