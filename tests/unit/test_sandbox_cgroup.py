"""Control groups on a made-up tree: what is written for each version, and how its counters are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentflow.adapters.runsc import cgroup
from agentflow.adapters.runsc.cgroup import GroupLimits

LIMITS = GroupLimits(memory_bytes=400 << 20, tasks=512)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        (tmp_path / controller).mkdir()
        (tmp_path / controller / "cgroup.procs").touch()
    return tmp_path


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    return tmp_path


def test_version_1_has_a_folder_for_each_controller(v1: Path) -> None:
    group = cgroup.make_group("v1", "agentflow/x/af-1", LIMITS, root=v1)
    group.set_cpu(0.5)
    assert [str(entry.relative_to(v1)) for entry in group.entries] == [
        f"{controller}/agentflow/x/af-1/cgroup.procs" for controller in ("memory", "pids", "cpu", "cpuacct")
    ]
    assert (v1 / "memory/agentflow/x/af-1/memory.limit_in_bytes").read_text() == str(400 << 20)
    assert (v1 / "pids/agentflow/x/af-1/pids.max").read_text() == "512"
    assert (v1 / "cpu/agentflow/x/af-1/cpu.cfs_quota_us").read_text() == "50000"
    assert cgroup.children("v1", "agentflow/x", root=v1) == {"af-1"}


def test_version_1_counters(v1: Path) -> None:
    group = cgroup.make_group("v1", "af-1", LIMITS, root=v1)
    assert (group.oom_kills(), group.task_refusals(), group.cpu_s(), group.memory_peak_bytes()) == (0, 0, None, None)
    (v1 / "memory/af-1/memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (v1 / "pids/af-1/pids.events").write_text("max 3\n")
    (v1 / "cpuacct/af-1/cpuacct.usage").write_text("1500000000\n")
    (v1 / "memory/af-1/memory.max_usage_in_bytes").write_text("77\n")
    assert (group.oom_kills(), group.task_refusals(), group.cpu_s(), group.memory_peak_bytes()) == (2, 3, 1.5, 77)


def test_version_2_hands_the_controllers_down_to_one_folder(v2: Path) -> None:
    group = cgroup.make_group("v2", "agentflow/x/af-1", LIMITS, root=v2)
    group.set_cpu(2.0)
    for parent in (v2, v2 / "agentflow", v2 / "agentflow/x"):
        assert (parent / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    folder = v2 / "agentflow/x/af-1"
    assert not (folder / "cgroup.subtree_control").exists(), "a group with processes may not hand controllers down"
    assert group.entries == [folder / "cgroup.procs"]
    assert (folder / "memory.max").read_text() == str(400 << 20)
    assert (folder / "memory.oom.group").read_text() == "1"
    assert (folder / "pids.max").read_text() == "512"
    assert (folder / "cpu.max").read_text() == "200000 100000"


def test_version_2_counters(v2: Path) -> None:
    group = cgroup.make_group("v2", "af-1", LIMITS, root=v2)
    folder = v2 / "af-1"
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 1\n")
    (folder / "pids.events").write_text("max 4\n")
    (folder / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\nsystem_usec 1\n")
    (folder / "memory.current").write_text("55\n")
    assert (group.oom_kills(), group.task_refusals(), group.cpu_s(), group.memory_peak_bytes()) == (1, 4, 2.5, 55)
    (folder / "memory.peak").write_text("66\n")
    assert group.memory_peak_bytes() == 66
    group.kill()
    assert (folder / "cgroup.kill").read_text() == "1"


def test_what_could_not_be_made_is_removed_again(v1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, value: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(cgroup, "_write", refuse)
    with pytest.raises(PermissionError):
        cgroup.make_group("v1", "af-1", LIMITS, root=v1)
    assert cgroup.children("v1", ".", root=v1) == set()


def test_without_a_tree_there_is_no_version(tmp_path: Path) -> None:
    assert cgroup.find_version(tmp_path) == ""
