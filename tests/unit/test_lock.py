"""requirements.lock and docs/dependencies.md agree with pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
WANTED = [(extra, Requirement(text)) for extra, texts in EXTRAS.items() for text in texts]
LOCK = (ROOT / "requirements.lock").read_text()


def locked() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", LOCK):
        if match := re.match(r"([^\\#\n]+?) *\\\n", entry):
            requirement = Requirement(match[1])
            found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


@pytest.mark.parametrize(("extra", "wanted"), WANTED, ids=lambda value: str(value))
def test_every_dependency_is_locked_within_its_bounds(extra: str, wanted: Requirement) -> None:
    pinned = locked().get(canonicalize_name(wanted.name), [])

    assert pinned, f"{wanted.name} is not in requirements.lock: run `make lock`"
    for requirement in pinned:
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        assert wanted.specifier.contains(pin.version, prereleases=True), f"{requirement} is outside {wanted}: run `make lock`"


def test_every_entry_has_hashes() -> None:
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", LOCK) if re.match(r"[a-z0-9]", entry)]

    assert len(entries) > 100
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_lock_names_no_index_and_no_address() -> None:
    assert not re.search(r"--(extra-)?index-url|--find-links|://", LOCK)


def test_versions_of_python_differ_by_markers_only() -> None:
    twice = {name: pins for name, pins in locked().items() if len(pins) > 1}

    assert all(pin.marker for pins in twice.values() for pin in pins)


def test_the_page_of_dependencies_is_complete() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (\w*) ?\| .+ \|$", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)

    assert {(name, extra) for name, extra in rows if name != "package"} == {(wanted.name, extra) for extra, wanted in WANTED}
