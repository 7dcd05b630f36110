"""The sandboxes' root filesystem, built in both ways, by several at once, and after a builder that was killed."""

from __future__ import annotations

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentflow.adapters.runsc import RunscLauncher, build_rootfs, rootfs_apt, rootfs_copy
from agentflow.adapters.runsc.rootfs_copy import PartMissing
from agentflow.errors import SandboxRefused

pytestmark = pytest.mark.runsc


async def test_copies_of_the_host_are_enough_and_only_one_builds(tmp_path: Path) -> None:
    killed = tmp_path / "rootfs" / ".building-killed"
    killed.mkdir(parents=True)
    with ThreadPoolExecutor(3) as threads:
        built = set(threads.map(lambda _: build_rootfs(tmp_path, use_apt=False), range(3)))
    (tree,) = built
    assert {entry.name for entry in tree.parent.iterdir()} == {tree.name, ".lock"}
    marker = tree.stat().st_ino
    assert build_rootfs(tmp_path, use_apt=False) == tree
    assert tree.stat().st_ino == marker, "it is built once"
    found = await RunscLauncher(tmp_path, tree).probe()
    assert found.available, found.reason


async def test_without_apt_copies_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_apt(tree: Path) -> str:
        (tree / "usr/bin/half").write_text("made")
        raise PartMissing("apt-get is not here")

    monkeypatch.setattr(rootfs_apt, "fill", no_apt)
    tree = await asyncio.to_thread(build_rootfs, tmp_path)
    assert not (tree / "usr/bin/half").exists()
    assert (tree / "usr/bin/python3").exists()


async def test_when_nothing_works_both_reasons_are_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tree: Path) -> str:
        raise PartMissing("no such thing here")

    monkeypatch.setattr(rootfs_apt, "fill", fail)
    monkeypatch.setattr(rootfs_copy, "fill", fail)
    with pytest.raises(SandboxRefused, match=r"from packages: no such thing here; from copies: no such thing here"):
        build_rootfs(tmp_path)
    assert [entry.name for entry in (tmp_path / "rootfs").iterdir()] == [".lock"]


def test_the_sandboxs_user_can_read_all_and_write_only_the_temporary_folders(tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        tree = build_rootfs(tmp_path, use_apt=False)
    finally:
        os.umask(mask)
    for folder, _, files in os.walk(tree):
        mode = os.stat(folder).st_mode
        assert mode & 0o005 == 0o005, folder
        if mode & stat.S_IWOTH:
            assert os.path.relpath(folder, tree) in ("tmp", "workspace", "var/tmp")
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                assert os.stat(path).st_mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_ISUID) == stat.S_IROTH, path
            assert os.lstat(path).st_uid == os.geteuid()
