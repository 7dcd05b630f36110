"""Marks of processes: who made something, and whether that very process lives."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agentflow.engine.process_mark import is_alive, own_mark


def test_a_process_knows_its_own_mark() -> None:
    assert is_alive(own_mark())
    assert own_mark() == own_mark()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process started")
def test_a_pid_that_another_process_got_since_does_not_count() -> None:
    boot, pid, started = own_mark().split()
    assert not is_alive(f"{boot} {pid} {int(started) - 1}")
    assert not is_alive(f"{boot[::-1]} {pid} {started}")


def test_an_ended_process_and_no_mark_at_all_are_dead() -> None:
    line = [sys.executable, "-c", "from agentflow.engine.process_mark import own_mark; print(own_mark())"]
    mark = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    assert str(os.getpid()) not in mark.split()
    for text in (mark, "", "x", "a b c"):
        assert not is_alive(text)
