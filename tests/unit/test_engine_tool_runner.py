"""Tool calls: which folders may be seen, how arguments are bound, where it runs, and what each end is called."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from agentflow.codec import decode_value, encode_value
from agentflow.domain.dispatch import Dispatch, StepDone
from agentflow.domain.sandbox import Isolation, Outcome, OutcomeKind
from agentflow.domain.tool import tool
from agentflow.engine.tool_runner import RETRYABLE, ToolRunner, bind, failure_of, inside, mounts_of
from agentflow.engine.tool_source import ToolSource
from agentflow.errors import InvalidRequest, MountForbidden


@tool(mounts=("folder",))
def look(folder: str, depth: int = 1) -> int:
    return depth


@pytest.fixture
def tree(tmp_path):
    """srv/code, srv2, secret, and links between them."""
    for name in ("srv/code", "srv2", "secret/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "srv/file").write_text("x")
    (tmp_path / "srv/out").symlink_to(tmp_path / "secret")
    (tmp_path / "srv/deep").symlink_to(tmp_path / "secret/deep")
    (tmp_path / "in").symlink_to(tmp_path / "srv/code")
    (tmp_path / "srv/round").symlink_to(tmp_path / "srv/round")
    return tmp_path


def mount(folder, *roots):
    return mounts_of(look, {"folder": folder}, roots if roots != (None,) else None)


@pytest.mark.parametrize("folder", ["srv", "srv/", "srv/code", "srv/code/../code", "srv/../srv/./code", "in"])
def test_a_folder_in_a_root_is_mounted_by_its_real_path(tree, folder):
    mounted = mount(f"{tree}/{folder}", f"{tree}/srv")["folder"]

    assert mounted.source == str((tree / folder).resolve())
    assert mounted.target == "/mnt/0"


@pytest.mark.parametrize(
    "folder", ["srv2", "secret", "", "srv/..", "srv/../secret", "srv/out", "srv/out/deep", "srv/deep", "srv/code/../../secret", "srvx"]
)
def test_a_folder_outside_is_forbidden_whatever_way_it_is_written(tree, folder):
    with pytest.raises(MountForbidden, match="mount_roots"):
        mount(f"{tree}/{folder}", f"{tree}/srv")


def test_a_root_that_is_a_link_means_what_it_points_to(tree):
    (tree / "root").symlink_to(tree / "srv")

    assert mount(f"{tree}/srv/code", f"{tree}/root")
    assert mount(f"{tree}/root/code", f"{tree}/srv")
    with pytest.raises(MountForbidden):
        mount(f"{tree}/secret", f"{tree}/root")


def test_without_roots_nothing_may_be_mounted_and_none_means_any(tree):
    with pytest.raises(MountForbidden):
        mount(f"{tree}/srv")
    assert mount(f"{tree}/secret", None)
    assert mount("/", "/")


@pytest.mark.parametrize("folder", ["srv", "./srv", "~/srv", "", 7, ["/srv"], {"a": 1}, True, "/srv\0", "/srv/\ud800", "file:///srv"])
def test_what_is_no_absolute_path_is_refused(folder):
    with pytest.raises(InvalidRequest, match="absolute path"):
        mount(folder, None)


@pytest.mark.parametrize("folder", ["srv/file", "srv/nothing", "srv/round"])
def test_what_is_no_folder_is_refused(tree, folder):
    with pytest.raises(InvalidRequest, match="not a folder"):
        mount(f"{tree}/{folder}", f"{tree}/srv")


def test_a_folder_that_is_not_given_is_not_mounted():
    assert mounts_of(look, {}, ()) == {}
    assert mounts_of(look, {"folder": None}, ()) == {}


@pytest.mark.parametrize(
    ("real", "roots", "expected"),
    [
        ("/srv", ("/srv",), True),
        ("/srv/a", ("/srv",), True),
        ("/srv2", ("/srv",), False),
        ("/sr", ("/srv",), False),
        ("/", ("/srv",), False),
        ("/srv", ("/srv/",), True),
        ("/b/c", ("/a", "/b"), True),
        ("/x", (), False),
        ("/x", None, True),
        ("/x", ("/",), True),
    ],
)
def test_a_prefix_of_a_name_is_not_a_folder_above(real, roots, expected):
    assert inside(real, roots) is expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([1], "object of named arguments"),
        ("text", "object of named arguments"),
        ({}, "missing a required argument: 'folder'"),
        ({"folder": "/", "width": 1}, "unexpected keyword argument 'width'"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, said):
    with pytest.raises(InvalidRequest, match=said):
        bind(look, arguments)


def test_arguments_that_fit_are_bound_by_name_and_copied():
    given = {"folder": "/", "depth": 2}

    assert bind(look, given) == given
    assert bind(look, given) is not given


@pytest.mark.parametrize("kind", [kind for kind in OutcomeKind if kind is not OutcomeKind.OK])
def test_every_end_has_a_code_of_its_own(kind):
    failure = failure_of(Outcome(kind))

    assert failure.code == f"sandbox_{kind.value}"
    assert failure.retryable is (kind in RETRYABLE)
    assert failure.message


@pytest.mark.parametrize(
    ("error_type", "code"), [("ValueError", "value_error"), ("json.decoder.JSONDecodeError", "json_decode_error"), ("", "sandbox_error")]
)
def test_an_exception_of_the_tools_code_gives_its_own_name(error_type, code):
    assert failure_of(Outcome(OutcomeKind.ERROR, error_type=error_type)).code == code


TOOLS = """
from agentflow import tool
import sys, asyncio, os

@tool(mounts=("folder",))
def boxed(folder: str = "", n: int = 1): ...

@tool(isolation="inline", mounts=("folder",))
def inline(folder: str = ""):
    return folder

@tool(isolation="inline")
def leaves():
    sys.exit(7)

@tool(isolation="inline")
def stops():
    raise StopIteration("s")

@tool(isolation="inline")
async def slow():
    await asyncio.Event().wait()

@tool(isolation="inline")
def odd():
    return {1, 2}

def plain(): ...
"""


class Sandbox:
    def __init__(self, outcome=None):
        self.calls, self.outcome = [], outcome or Outcome(OutcomeKind.OK, b"1")

    async def __call__(self, call):
        self.calls.append(call)
        return self.outcome


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "tools_for_runner.py").write_text(TOOLS)
    return folder


_numbers = itertools.count()


async def call(app: Path, name, arguments=None, *, sandboxes=None, roots=None, timeout_s=None, unsafe=False, module="tools_for_runner"):
    runner = ToolRunner(ToolSource(app), sandboxes or {}, unsafe_subprocess=unsafe)
    body = encode_value(arguments)
    dispatch = Dispatch(f"d{next(_numbers)}", "t", "x", "w", "s", 1, "tool", f"{module}:{name}", "h", body, timeout_s, mount_roots=roots)
    return await asyncio.wait_for(runner.run(dispatch, None), 10)


async def test_a_sandboxed_tool_sees_its_folder_where_it_is_mounted(app, tree):
    sandbox = Sandbox()
    result = await call(app, "boxed", {"folder": f"{tree}/in"}, sandboxes={Isolation.GVISOR: sandbox}, roots=(str(tree),))

    assert isinstance(result, StepDone)
    (sent,) = sandbox.calls
    assert decode_value(sent.arguments) == {"folder": "/mnt/0"}
    assert [m.source for m in sent.mounts] == [f"{tree}/srv/code"]


@pytest.mark.parametrize("isolation", ["inline", "subprocess"])
async def test_without_a_sandbox_the_tool_gets_the_very_folder_that_was_checked(app, tree, isolation):
    sandbox = Sandbox()
    arguments, roots = {"folder": f"{tree}/in"}, (str(tree),)
    if isolation == "inline":
        result = await call(app, "inline", arguments, roots=roots)
        seen = decode_value(result.value)
    else:
        await call(app, "boxed", arguments, roots=roots, sandboxes={Isolation.SUBPROCESS: sandbox}, unsafe=True)
        seen = decode_value(sandbox.calls[0].arguments)["folder"]

    assert seen == f"{tree}/srv/code", "a link could point elsewhere by the time it is opened"


@pytest.mark.parametrize("name", ["boxed", "inline"])
async def test_a_forbidden_folder_is_refused_wherever_it_runs(app, tree, name):
    sandbox = Sandbox()
    result = await call(app, name, {"folder": f"{tree}/secret"}, sandboxes={Isolation.GVISOR: sandbox}, roots=(f"{tree}/srv",))

    assert (result.failure.code, result.failure.retryable, sandbox.calls) == ("mount_forbidden", False, [])


async def test_an_isolation_that_is_not_there_is_refused_and_never_replaced_by_a_weaker_one(app):
    weaker = Sandbox()
    result = await call(app, "boxed", {}, sandboxes={Isolation.SUBPROCESS: weaker})

    assert (result.failure.code, weaker.calls) == ("sandbox_refused", [])


async def test_the_steps_time_bounds_the_tools(app):
    sandbox = Sandbox()
    await call(app, "boxed", {}, sandboxes={Isolation.GVISOR: sandbox}, timeout_s=2.5)
    await call(app, "boxed", {}, sandboxes={Isolation.GVISOR: sandbox}, timeout_s=1e6)

    assert [sent.profile.wall_s for sent in sandbox.calls] == [2.5, 10.0]


@pytest.mark.parametrize(
    ("name", "code"), [("leaves", "sandbox_exit"), ("stops", "runtime_error"), ("slow", "sandbox_timeout"), ("odd", "type_error")]
)
async def test_an_inline_tool_ends_only_itself(app, name, code):
    result = await call(app, name, {}, timeout_s=0.05 if name == "slow" else None)

    assert (result.failure.code, result.crashed) == (code, False)


async def test_a_lost_sandbox_is_a_crash_and_no_attempt(app):
    result = await call(app, "boxed", {}, sandboxes={Isolation.GVISOR: Sandbox(Outcome(OutcomeKind.LOST))})

    assert (result.failure.code, result.crashed) == ("sandbox_lost", True)


@pytest.mark.parametrize(
    ("uses", "said"),
    [
        ("plain", "not marked @tool"),
        ("nothing", "no such function"),
        ("__class__.x", "no module"),
        ("", "no module"),
    ],
)
async def test_what_is_no_tool_is_refused_for_good(app, uses, said):
    result = await call(app, uses, {})

    assert (result.failure.code, result.failure.retryable) == ("invalid_request", False)
    assert said in result.failure.message


@pytest.mark.parametrize("module", ["no_such", "../app/tools_for_runner", "..tools_for_runner", "/etc/passwd", "os", "tools_for_runner.py"])
async def test_a_module_outside_the_application_folder_is_not_found(app, module):
    result = await call(app, "boxed", {}, module=module)

    assert result.failure.code == "invalid_request"
    assert "no module" in result.failure.message


@pytest.mark.parametrize("text", ["import sys; sys.exit()", "raise SystemExit('bye')", "1 / 0", "def ("])
async def test_a_module_that_does_not_import_ends_the_call_and_nothing_else(app, text):
    (app / "broken_tools.py").write_text(text)
    result = await call(app, "boxed", {}, module="broken_tools")

    assert result.failure.code == "invalid_request"
    assert "does not import" in result.failure.message
