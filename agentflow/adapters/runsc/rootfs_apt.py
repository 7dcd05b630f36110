"""Fills a root filesystem from the distribution's packages; their names and versions are found, not known."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from agentflow.adapters.runsc.rootfs_copy import PartMissing

_WITHOUT = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
_ALONE = ("dash", "tzdata")
"""Taken without what they depend on: that is for their install scripts, which do not run."""
_NEEDLESS = re.compile(r"dpkg|tar|perl.*|libperl.*|debconf.*|install-info|mailcap|mime-support|media-types|gcc-\d+-base")
_LEFT_OUT = (
    "./usr/share/doc",
    "./usr/share/man",
    "./usr/share/locale",
    "./usr/share/lintian",
    "./usr/share/info",
    "./usr/lib/*/gconv",
    "./etc",
    "./var",
)
_TOOLS = ("apt-cache", "apt-get", "dpkg-deb", "tar")


def fill(tree: Path) -> str:
    """Download and unpack. Raises PartMissing when apt is not here, knows no packages, or cannot fetch them."""
    for tool in _TOOLS:
        if shutil.which(tool) is None:
            raise PartMissing(f"{tool} is not here")
    interpreter = _interpreter()
    packages = sorted(_needed([f"{interpreter}-minimal", f"lib{interpreter}-stdlib", "libgcc-s1"]) | set(_ALONE))
    with tempfile.TemporaryDirectory(prefix="agentflow-debs-") as folder:
        # root's apt would drop to a user of its own, who may not enter this folder, and warn about it
        _run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *packages], cwd=folder, timeout_s=60)
        archives = sorted(Path(folder).glob("*.deb"))
        if len(archives) < len(packages):
            raise PartMissing(f"only {len(archives)} of {len(packages)} packages could be fetched")
        for archive in archives:
            _unpack(archive, tree)
    shell = tree / "usr/bin/sh"
    if not shell.exists():
        shell.symlink_to("dash")
    return interpreter


def _interpreter() -> str:
    """What `python3` means in this distribution, such as python3.11."""
    told = _run(["apt-cache", "depends", "--important", "python3-minimal"], timeout_s=20)
    found = re.search(r"\b(python3\.\d+)-minimal\b", told)
    if found is None:
        raise PartMissing("apt knows no python3-minimal: run apt-get update")
    return found[1]


def _needed(roots: list[str]) -> set[str]:
    """These packages and what they depend on."""
    told = _run(["apt-cache", "depends", "--recurse", *(f"--no-{what}" for what in _WITHOUT), *roots], timeout_s=20)
    names = {line.strip() for line in told.splitlines() if line and not line[0].isspace()}
    return {name for name in names if not name.startswith("<") and ":" not in name and not _NEEDLESS.fullmatch(name)}


def _unpack(archive: Path, tree: Path) -> None:
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE, env=_environment()) as unpacked:
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        line = ["tar", "-x", "-C", str(tree), "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", *left_out]
        done = subprocess.run(line, stdin=unpacked.stdout, env=_environment(), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0 or unpacked.returncode != 0:
        raise PartMissing(f"{archive.name} could not be unpacked: {done.stderr.strip()[-300:]}")


def _run(line: list[str], *, timeout_s: float, cwd: str = "/") -> str:
    done = subprocess.run(line, env=_environment(), cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode != 0:
        raise PartMissing(f"`{line[0]} {line[1]}` failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Plain English output, and the proxy settings that apt may need."""
    kept = {
        name: value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "no_proxy", "path", "apt_config")
    }
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **kept, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
