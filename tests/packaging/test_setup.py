"""scripts/setup.sh on machines that lack something: a message that says what to do, and nothing half-made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("cat", "dirname", "env", "flock", "grep", "rm", "sed", "sh", "sha256sum")


class Machine:
    """A folder with the project's set-up in it, and a PATH of our own: neither apt-get nor sudo nor runsc, nor root."""

    def __init__(self, folder: Path) -> None:
        self.project, self.programs = folder / "project", folder / "bin"
        for made in (self.project / "scripts", self.programs):
            made.mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "scripts/setup.sh"):
            shutil.copy(ROOT / name, self.project / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.programs / tool).symlink_to(found)
        self.program("id", "echo 1000")

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def setup(self, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.programs), "TMPDIR": str(self.project), **environment}
        command = [self.project / "scripts/setup.sh"]
        return subprocess.run(command, cwd="/", env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_runsc_and_rights_it_says_what_to_install_and_names_the_unsafe_setting(machine: Machine) -> None:
    done = machine.setup()

    assert done.returncode == 1
    assert "apt-get install runsc" in done.stderr
    assert "AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (machine.project / ".venv").exists()


def test_the_unsafe_setting_goes_on_without_runsc_and_says_so(machine: Machine) -> None:
    done = machine.setup(AGENTFLOW_UNSAFE_SUBPROCESS_TOOLS="true", PYTHON="no-such-python")

    assert "WITHOUT isolation" in done.stderr
    assert "there is no 'no-such-python'" in done.stderr


def test_an_old_python_is_refused_with_the_way_out(machine: Machine) -> None:
    machine.program("runsc", "exit 0")
    machine.program("old-python", 'case "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac')
    done = machine.setup(PYTHON="old-python")

    assert done.returncode == 1
    assert "Python 3.9.2 is too old" in done.stderr
    assert "make PYTHON=python3.12" in done.stderr


def test_without_venv_and_rights_it_names_the_package(machine: Machine) -> None:
    machine.program("runsc", "exit 0")
    machine.program("bare-python", f'case "$2" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"')
    done = machine.setup(PYTHON="bare-python")

    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert not (machine.project / ".venv").exists()


def test_a_failing_installation_shows_what_pip_said_and_is_tried_again(machine: Machine) -> None:
    machine.program("runsc", "exit 0")
    (machine.project / "requirements.lock").write_text("no-such-package-of-agentflow==1 \\\n    --hash=sha256:" + "0" * 64 + "\n")
    environment = {"PYTHON": sys.executable, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

    for _ in range(2):
        done = machine.setup(**environment)
        assert done.returncode == 1
        assert "no-such-package-of-agentflow" in done.stderr
        assert "requirements.lock failed" in done.stderr
