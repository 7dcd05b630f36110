"""The example's tools as plain functions, on folders that are good, broken and hostile."""

from __future__ import annotations

import json
import os
import socket
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "repository_review"))

from repository_review.tools import TOP_LEVEL, analyse_package, find_packages

RESULT_LIMIT_BYTES = 10_000


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def found(root: Path, **options: Any) -> dict[str, tuple[str, int]]:
    return {package["name"]: (package["folder"], package["files"]) for package in find_packages(str(root), **options)["packages"]}


def problems(result: dict[str, Any]) -> dict[str, str]:
    return {item["file"]: item["kind"] for item in result["problems"]["first"]}


# ---------------------------------------------------------------------------------------------------- find_packages


def test_each_folder_with_python_is_a_package_and_loose_modules_are_one_more(tmp_path: Path) -> None:
    write(tmp_path, {"alpha/__init__.py": "", "alpha/deep/inner.py": "", "beta/x.py": "", "loose.py": "", "docs/index.md": ""})
    assert found(tmp_path) == {"alpha": ("alpha", 2), "beta": ("beta", 1), TOP_LEVEL: ("", 1)}


def test_a_folder_that_only_holds_packages_is_looked_into(tmp_path: Path) -> None:
    write(tmp_path, {"src/alpha/__init__.py": "", "src/beta/__init__.py": ""})
    assert found(tmp_path) == {"src/alpha": ("src/alpha", 1), "src/beta": ("src/beta", 1)}


def test_tests_are_left_out_unless_they_are_asked_for(tmp_path: Path) -> None:
    write(tmp_path, {"alpha/a.py": "", "alpha/test_a.py": "", "alpha/tests/b.py": "", "tests/c.py": ""})
    assert found(tmp_path) == {"alpha": ("alpha", 1)}
    assert found(tmp_path, include_tests=True) == {"alpha": ("alpha", 3), "tests": ("tests", 1)}


def test_installed_packages_caches_and_environments_are_left_out_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"alpha/a.py": "", "site-packages/b.py": "", "alpha/__pycache__/c.py": "", ".git/d.py": "", "env/pyvenv.cfg": "", "env/e.py": ""},
    )
    assert found(tmp_path) == {"alpha": ("alpha", 1)}
    assert find_packages(str(tmp_path))["folders_skipped"] == 4


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", {"secret.py": "password = 1\n"})
    inside = write(tmp_path / "inside", {"alpha/a.py": "x = 1\n"})
    (inside / "linked").symlink_to(outside)
    (inside / "alpha" / "secret.py").symlink_to(outside / "secret.py")
    (inside / "alpha" / "loop").symlink_to(inside)
    assert found(inside) == {"alpha": ("alpha", 1)}
    assert analyse_package(str(inside / "alpha"))["files"] == 1


def test_what_is_cut_off_is_said(tmp_path: Path) -> None:
    write(tmp_path, {f"p{number}/a.py": "" for number in range(5)})
    result = find_packages(str(tmp_path), max_packages=2)
    assert len(result["packages"]) == 2
    assert result["truncated"] == "the 2 largest of 5 packages"
    assert find_packages(str(tmp_path), max_entries=2)["truncated"] == "stopped after 2 files and folders"


def test_names_that_look_alike_when_printed_stay_apart(tmp_path: Path) -> None:
    write(tmp_path, {"x" * 200 + "a/m.py": "", "y" + "x" * 199 + "a/m.py": ""})
    assert len({package["name"] for package in find_packages(str(tmp_path))["packages"]}) == 2


def test_an_empty_folder_has_no_packages(tmp_path: Path) -> None:
    assert find_packages(str(tmp_path))["packages"] == []


# ---------------------------------------------------------------------------------------------------- analyse_package

GOOD = '''"""A module.

Its docstring has three lines."""
# a comment
import subprocess as sp
from os import system
import pickle, yaml


class Public:
    """Documented."""

    def method(self, x):
        return [y for y in x if y] if x and self else None

    def _private(self):
        def helper():
            pass


async def undocumented(a):  # TODO: document
    for i in a:
        while i:
            try:
                i -= 1
            except ValueError:
                assert i
    match a:
        case 1 | 2:
            pass
        case _:
            pass
    sp.run("ls", shell=True)
    sp.run(["ls"], shell=False)
    system("ls")
    pickle.loads(a)
    yaml.load(a, Loader=yaml.SafeLoader)
    yaml.load(a)


TEXT = "TODO: not a comment"
'''


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write(tmp_path_factory.mktemp("good"), {"good.py": GOOD})
    return dict(analyse_package(str(folder), name="good"))


def test_sizes_leave_out_blanks_comments_and_docstrings(good: dict[str, Any]) -> None:
    assert (good["files"], good["lines"], good["functions"], good["classes"]) == (1, 41, 4, 1)
    code = [line for line in GOOD.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert good["code_lines"] == len(code) - 3 - 1


def test_complexity_is_counted_for_the_innermost_function(good: dict[str, Any]) -> None:
    complexity = {item["function"]: item["complexity"] for item in good["complexity"]["top"]}
    assert complexity == {"undocumented": 6, "Public.method": 5, "Public._private": 1, "Public._private.helper": 1}


def test_docstrings_are_asked_of_what_is_public(good: dict[str, Any]) -> None:
    assert good["docstrings"] == {"public": 4, "documented": 2}  # the module, Public, Public.method, undocumented


def test_only_comments_are_open_ends(good: dict[str, Any]) -> None:
    assert good["todos"] == {"count": 1, "first": [{"file": "good.py", "line": 21, "text": "TODO: document"}]}


def test_risky_calls_are_found_through_import_aliases_and_arguments(good: dict[str, Any]) -> None:
    assert good["risky_calls"]["by_call"] == {"subprocess, shell=True": 1, "os.system": 1, "pickle.loads": 1, "yaml.load": 1}
    assert good["risky_calls"]["high"] == 4


def test_an_own_function_with_the_name_of_a_built_in_is_no_risk(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "def eval(x): ...\neval(1)\nself.exec(2)\nfrom .safe import loads\nloads(3)\n"})
    assert analyse_package(str(tmp_path))["risky_calls"]["by_call"] == {}


def test_a_broken_file_is_a_finding_and_the_others_are_measured(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "syntax.py": "def (:\n",
            "nul.py": b"x = 1\0\n",
            "encoding.py": b"# -*- coding: klingon -*-\nx = 1\n",
            "not_utf8.py": b"x = '\xff'\n",
            "deep.py": "x = " + "(" * 100_000 + ")" * 100_000,
            "long.py": "x = 1\n" * 300_000,
            "latin.py": "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"),
            "mark.py": b"\xef\xbb\xbfx = 1\n",
            "old_mac.py": b"x = 1\ry = 2\r",
        },
    )
    result = analyse_package(str(tmp_path))
    assert result["files"] == 9
    assert result["problems"]["count"] == 6
    assert problems(result).keys() == {"syntax.py", "nul.py", "encoding.py", "not_utf8.py", "deep.py", "long.py"}
    assert result["lines"] == 2 + 1 + 2


def test_a_deep_tree_that_parses_does_not_exhaust_the_stack(tmp_path: Path) -> None:
    chain = "if x:\n    pass\n" + "elif x:\n    pass\n" * 900
    write(tmp_path, {"deep.py": f"def f(x):\n{''.join('    ' + line + chr(10) for line in chain.splitlines())}"})
    result = analyse_package(str(tmp_path))
    assert result["problems"]["count"] == 0
    assert result["complexity"]["max"] == 902


def test_pipes_sockets_and_folders_that_are_called_py_do_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.py"))
        result = analyse_package(str(tmp_path))
    assert problems(result) == {"pipe.py": "not readable", "s.py": "not readable"}


def test_names_that_are_not_unicode_are_shown_escaped(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff<b>.py")).write_text("def (:\n")
    result = analyse_package(str(tmp_path))
    assert result["problems"]["first"][0]["file"] == "\\udcff<b>.py"
    json.dumps(result, ensure_ascii=False).encode()


def test_a_hostile_package_gives_a_small_result(tmp_path: Path) -> None:
    nasty = "\x01\u202e\\\"'" * 40
    name = "é" * 110
    body = "".join(f"def {'f' * 300}{number}(x):\n    # FIXME {nasty}\n    eval(x)\n" + "    if x: pass\n" * 12 for number in range(300))
    write(tmp_path, {f"{name}/{name}{number}.py": body for number in range(3)})
    write(tmp_path, {f"{name}/{name}bad{number}.py": f"'{nasty}" for number in range(20)})
    result = analyse_package(str(tmp_path))
    assert result["risky_calls"]["high"] == 900
    assert len(json.dumps(result).encode()) < 3 * RESULT_LIMIT_BYTES  # worst case, every character escaped
    assert len(json.dumps(result, ensure_ascii=False).encode()) < RESULT_LIMIT_BYTES


def test_limits_of_files_and_seconds_are_kept_and_said(tmp_path: Path) -> None:
    write(tmp_path, {f"m{number}.py": "x = 1\n" for number in range(5)})
    limited = analyse_package(str(tmp_path), max_files=3)
    assert (limited["files"], limited["truncated"]) == (3, "only the first 3 files were read")
    late = analyse_package(str(tmp_path), max_seconds=-1)
    assert (late["files"], late["truncated"]) == (0, "stopped after -1 s; 0 files were read")


def test_top_level_only_reads_nothing_below(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "", "b/c.py": ""})
    assert analyse_package(str(tmp_path), top_level_only=True)["files"] == 1


def test_nothing_that_is_reviewed_is_run(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": f"open({str(tmp_path / 'ran')!r}, 'w')\n"})
    analyse_package(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_real_standard_library_is_reviewed_without_loss() -> None:
    root = sysconfig.get_path("stdlib")
    packages = {package["name"]: package for package in find_packages(root)["packages"]}
    assert {"asyncio", "email", "json", TOP_LEVEL} <= packages.keys()
    assert not {"site-packages", "test", "__pycache__"} & packages.keys()
    for name in ("asyncio", "json"):
        result = analyse_package(os.path.join(root, packages[name]["folder"]), name=name)
        assert result["files"] == packages[name]["files"]
        assert result["problems"]["count"] == 0
        assert result["code_lines"] > 500
        assert len(json.dumps(result).encode()) < RESULT_LIMIT_BYTES
