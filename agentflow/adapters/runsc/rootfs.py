"""The sandboxes' root filesystem: a Python with its standard library and nothing of this host, built once, named by its content.

Two ways to make it. From the distribution's own packages, fetched with `apt-get download` and unpacked without running any
of their scripts: reproducible and independent of what is installed. Or, without apt or network, from copies of this host's
interpreter, its standard library and the shared libraries that they need.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from agentflow.adapters.runsc import rootfs_apt, rootfs_copy
from agentflow.adapters.runsc.bundle import GUEST_FOLDER, MOUNT_POINTS
from agentflow.adapters.runsc.rootfs_copy import PartMissing
from agentflow.errors import SandboxRefused

log = logging.getLogger(__name__)

_GUEST = Path(__file__).resolve().parents[2] / "sandbox_guest"
_MUST_IMPORT = "ast, asyncio, bz2, ctypes, dataclasses, decimal, hashlib, json, lzma, re, sqlite3, ssl, tokenize, unicodedata, zlib"
_FOLDERS = ("proc", "sys", "dev", "tmp", "workspace", "run", "etc", "root", "home", "var/tmp", *(point[1:] for point in MOUNT_POINTS))
_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nsandbox:x:65534:65534:sandbox:/workspace:/sbin/nologin\n",
    "etc/group": "root:x:0:\nsandbox:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

Filler = Callable[[Path], str]
"""Puts a Python into an empty tree; returns the name of its versioned interpreter, such as python3.11. Raises PartMissing."""


def build_rootfs(state_dir: Path, *, use_apt: bool = True) -> Path:
    """The folder of the root filesystem for this host and this AgentFlow; built if it is not there yet (some seconds).

    Blocks: call it in a thread. Several processes may: one builds, the others wait. Raises SandboxRefused when neither way works.
    """
    folder = Path(os.path.abspath(state_dir)) / "rootfs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    wanted = folder / _key(use_apt)
    if wanted.is_dir():
        return wanted
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(".building-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not wanted.is_dir():
            _build(folder, wanted, use_apt)
    return wanted


def _build(folder: Path, wanted: Path, use_apt: bool) -> None:
    fillers: list[tuple[str, Filler]] = [("packages", rootfs_apt.fill)] if use_apt else []
    fillers.append(("copies", rootfs_copy.fill))
    problems = []
    for name, fill in fillers:
        tree = folder / f".building-{secrets.token_hex(4)}"
        try:
            _skeleton(tree)
            interpreter = fill(tree)
            _finish(tree, interpreter)
            tree.rename(wanted)
            return
        except (PartMissing, OSError, subprocess.SubprocessError) as error:
            problems.append(f"from {name}: {error}")
            log.info("root filesystem %s", problems[-1])
        finally:
            shutil.rmtree(tree, ignore_errors=True)
    raise SandboxRefused("no root filesystem could be built for sandboxes (" + "; ".join(problems)[:1500] + ")")


def _key(use_apt: bool) -> str:
    """Changes with what the tree is made of: our recipe and guest, the distribution, and its Python."""
    digest = hashlib.sha256(f"{platform.machine()} {os.geteuid() == 0} {use_apt}".encode())
    recipe = [Path(module.__file__ or "") for module in (rootfs_apt, rootfs_copy)] + [Path(__file__)]
    for path in [*recipe, *sorted(_GUEST.glob("*.py")), Path("/etc/os-release")]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    python = Path(rootfs_copy.host_python()).resolve()
    digest.update(f"{python} {python.stat().st_size} {python.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _skeleton(tree: Path) -> None:
    """Empty folders and the links of a merged /usr."""
    tree.mkdir(mode=0o755)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    for name in _FOLDERS:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "workspace", "var/tmp"):
        (tree / name).chmod(0o1777)
    for name, text in _FILES.items():
        (tree / name).write_text(text)


def _finish(tree: Path, interpreter: str) -> None:
    """Add the guest, compile everything (in the sandbox nothing can be written, so it would be compiled at every start), check it."""
    python = tree / "usr/bin/python3"
    if not python.exists():
        python.symlink_to(interpreter)
    guest = tree / GUEST_FOLDER[1:] / _GUEST.name
    shutil.copytree(_GUEST, guest, ignore=shutil.ignore_patterns("__pycache__"))
    standard_library = f"usr/lib/{interpreter}"
    compiled = run_in(
        tree, interpreter, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash",
        "-s", str(tree), "-p", "/", "-x", r"lib2to3|/test/", str(tree / standard_library), str(tree / GUEST_FOLDER[1:]),
    )  # fmt: skip
    if compiled:
        log.info("compiling the root filesystem: %s", compiled[-300:])
    _open_for_all(tree)
    run_in(
        tree,
        interpreter,
        "-c",
        f"import {_MUST_IMPORT}; import sys; sys.path.insert(0, {str(guest.parent)!r}); import sandbox_guest.worker",
    )


def run_in(tree: Path, interpreter: str, *arguments: str) -> str:
    """Run the tree's own Python on the host, by the tree's own loader; what it wrote. Raises SubprocessError when it fails."""
    loaders = sorted((tree / "usr").glob("lib*/**/ld-linux*.so*"))
    libraries = sorted({str(path.parent) for path in (tree / "usr/lib").rglob("libc.so.6")} | {str(tree / "usr/lib")})
    if not loaders:
        raise PartMissing("it has no dynamic loader")
    line = [str(loaders[0]), "--library-path", ":".join(libraries), str(tree / "usr/bin" / interpreter), "-S", "-s", *arguments]
    environment = {"PYTHONHOME": str(tree / "usr"), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(line, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise PartMissing(f"its Python does not work: {(done.stdout + done.stderr).strip()[-400:]}")
    return done.stdout + done.stderr


def _open_for_all(tree: Path) -> None:
    """Readable for the sandbox's user, writable for nobody else, whatever our umask and the modes of the sources were."""
    for folder, _, files in os.walk(tree):
        if not os.stat(folder).st_mode & 0o1000:
            os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, os.stat(path).st_mode & 0o755 | 0o444)
