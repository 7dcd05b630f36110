"""The guest's parts that need no sandbox: its JSON agrees with agentflow.codec, its filter denies what it should, its shim stands in."""

from __future__ import annotations

import ast
import enum
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agentflow.sandbox_guest
from agentflow.codec import decode_value, encode_value
from agentflow.sandbox_guest import seccomp, values

GUEST = Path(agentflow.sandbox_guest.__file__).parent


class Colour(enum.IntEnum):
    RED = 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)), inner),
    max_leaves=20,
)


@given(JSON)
def test_a_value_means_the_same_in_a_sandbox_and_outside(value: Any) -> None:
    inside = values.encode(value)
    assert inside.isascii()
    assert decode_value(inside) == decode_value(encode_value(value)) == value


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, b"x", float("nan"), float("-inf"), object(), [object()], {"a": ast}])
def test_what_json_cannot_hold_is_refused_in_both(value: Any) -> None:
    for encode in (values.encode, encode_value):
        with pytest.raises(TypeError, match="not a JSON value"):
            encode(value)


@pytest.mark.parametrize("value", [(1, 2), Colour.RED, {"a": (1,)}, "\ud800\0"])
def test_relatives_of_json_values_are_taken_in_both(value: Any) -> None:
    assert decode_value(values.encode(value)) == decode_value(encode_value(value))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="nested too deep"):
        values.encode(loop)


def verdict(machine: str, architecture: int, number: int, first_argument: int = 0) -> int:
    """What the filter returns for a system call: a small interpreter of the instructions that it uses."""
    program = list(struct.iter_unpack("<HBBI", seccomp.program(machine)))
    words = {0: number, 4: architecture, 16: first_argument}
    at = accumulator = 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            accumulator = words[constant]
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}[code]
            at += if_true if holds else if_false


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


@pytest.mark.parametrize(
    ("machine", "architecture", "clone", "unshare", "setns"),
    [("x86_64", 0xC000003E, 56, 272, 308), ("aarch64", 0xC00000B7, 220, 97, 268)],
)
def test_the_filter_denies_user_namespaces_and_nothing_else(machine: str, architecture: int, clone: int, unshare: int, setns: int) -> None:
    assert verdict(machine, architecture, unshare) == EPERM
    assert verdict(machine, architecture, setns) == EPERM
    assert verdict(machine, architecture, clone, 0x10000000 | 17) == EPERM
    assert verdict(machine, architecture, clone, 0x003D0F00) == ALLOW, "a thread"
    assert verdict(machine, architecture, 435) == ENOSYS, "clone3"
    assert verdict(machine, architecture, 0x40000000 | unshare) == ENOSYS, "the x32 numbers of the same calls"
    assert verdict(machine, 0x40000003, unshare) == KILL, "32-bit calls have other numbers"
    for number in (0, 1, 57, 58, 59, 60, 231):
        assert verdict(machine, architecture, number) == ALLOW or number in (clone, unshare, setns)


def test_an_unknown_machine_is_an_error_not_an_open_door() -> None:
    with pytest.raises(OSError, match="no seccomp filter"):
        seccomp.program("riscv64")


def test_the_guest_needs_the_standard_library_alone_and_an_old_python() -> None:
    for path in GUEST.glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            assert all(name.split(".")[0] in sys.stdlib_module_names for name in names), (path, names)


SHIM = """
from sandbox_guest import shim
shim.install()
import agentflow, agentflow.errors, agentflow.testing.chat as chat
from agentflow import tool, Agent, Anything
from agentflow.errors import Busy
assert tool(len) is len and tool(mounts=("a",), wall_s=1)(len) is len and agentflow.tool()(len) is len
assert agentflow.errors.Busy is Busy and agentflow.Anything is Anything
class Mine(Agent, version="2"): pass
try: raise Busy("full", retry_after_s=1)
except agentflow.errors.Busy as error: assert error.facts == {"retry_after_s": 1}
try: agentflow.__path_of_nothing__
except AttributeError as error: assert "inside a sandbox" in str(error)
else: raise AssertionError
try: agentflow.connect()
except RuntimeError as error: assert "agentflow.connect does not work" in str(error)
else: raise AssertionError
print("fine")
"""


def test_the_shim_stands_in_for_agentflow() -> None:
    line = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(GUEST.parent)!r})\n{SHIM}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("fine\n", "")
