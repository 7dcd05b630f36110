"""Fills a root filesystem with copies of this host's Python, its standard library, and the libraries that both load."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_ASK = (
    "import json, sys, sysconfig; print(json.dumps([sys.version_info[:2], sysconfig.get_path('stdlib'),"
    " sysconfig.get_path('platstdlib'), getattr(sys, '_base_executable', '') or sys.executable]))"
)
_LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "__pycache__",
    "config-*",
)
_LATE_LIBRARIES = ("libgcc_s.so.1", "libnss_files.so.2")
"""Loaded by name while running, so ldd does not show them: without libgcc_s a thread that ends aborts the process."""


class PartMissing(Exception):
    """This way of building a root filesystem does not work here; the text says why."""


def host_python() -> str:
    """The distribution's Python if it is new enough, else the one that runs this."""
    candidate = "/usr/bin/python3"
    if os.path.exists(candidate) and _version(candidate) >= (3, 9):
        return candidate
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def fill(tree: Path) -> str:
    """Copy. Raises PartMissing."""
    problem = ""
    for python in dict.fromkeys((host_python(), os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))):
        try:
            return _copy(tree, python)
        except PartMissing as error:
            problem = str(error)
    raise PartMissing(problem)


def _copy(tree: Path, python: str) -> str:
    if shutil.which("ldd") is None:
        raise PartMissing("ldd is not here")
    version, library, platform_library, executable = json.loads(_run([python, "-I", "-c", _ASK]))
    interpreter = f"python{version[0]}.{version[1]}"
    target = tree / "usr/lib" / interpreter
    for source in dict.fromkeys((library, platform_library)):
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns(*_LEFT_OUT), symlinks=False, ignore_dangling_symlinks=True, dirs_exist_ok=True
        )
    if not (target / "ast.py").exists():
        raise PartMissing(f"{library} is no complete standard library")
    executable = os.path.realpath(executable)
    shutil.copyfile(executable, tree / "usr/bin" / interpreter)
    shutil.copyfile("/bin/sh", tree / "usr/bin/sh")
    for name in (interpreter, "sh"):
        (tree / "usr/bin" / name).chmod(0o755)
    _copy_libraries(tree, [executable, os.path.realpath("/bin/sh"), *map(str, Path(platform_library).glob("lib-dynload/*.so"))])
    if Path("/usr/share/zoneinfo").is_dir():
        shutil.copytree("/usr/share/zoneinfo", tree / "usr/share/zoneinfo", symlinks=False, ignore_dangling_symlinks=True)
    return interpreter


def _copy_libraries(tree: Path, programs: list[str]) -> None:
    """Each library at the very path where it was found, so that run paths go on working."""
    found = set(re.findall(r"(/\S+) \(0x", _run(["ldd", *programs], may_fail=True)))
    if not found:
        raise PartMissing("ldd names no libraries: a static or foreign interpreter?")
    folders = {os.path.dirname(path) for path in found if "/libc.so" in path}
    found |= {path for folder in folders for name in _LATE_LIBRARIES if os.path.exists(path := f"{folder}/{name}")}
    for path in found:
        folder = (
            tree / os.path.realpath(os.path.dirname(path))[1:]
            if os.path.dirname(path).startswith("/lib")
            else tree / os.path.dirname(path)[1:]
        )
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / os.path.basename(path)
        if not target.exists():
            shutil.copyfile(os.path.realpath(path), target)
            target.chmod(0o755)
    if not any(os.path.basename(path) == "libgcc_s.so.1" for path in found):
        raise PartMissing("libgcc_s.so.1 is not beside libc: install libgcc-s1")


def _version(python: str) -> tuple[int, ...]:
    try:
        return tuple(json.loads(_run([python, "-I", "-c", "import sys; print(list(sys.version_info[:2]))"])))
    except (PartMissing, ValueError):
        return (0,)


def _run(line: list[str], *, may_fail: bool = False) -> str:
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=30, check=False, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    )
    if done.returncode != 0 and not may_fail:
        raise PartMissing(f"`{line[0]} {line[1]}` failed: {done.stderr.strip()[-300:]}")
    return done.stdout
