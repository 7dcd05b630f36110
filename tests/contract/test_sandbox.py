"""The contract of Sandbox and SandboxLauncher, on gVisor and on the plain subprocess; isolation itself only on gVisor."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentflow.adapters.runsc import RunscLauncher, build_rootfs
from agentflow.adapters.subprocess_unsafe import SubprocessLauncher
from agentflow.domain.sandbox import Mount, Outcome, OutcomeKind, Profile, SandboxCall, SandboxCapabilities
from agentflow.engine.process_mark import own_mark
from agentflow.errors import SandboxRefused, Unavailable
from agentflow.ports import Sandbox

MIB = 1 << 20
ROOTFS_CACHE = Path.home() / ".cache" / "agentflow" / "tests"
"""Root filesystems are named by their content, so keeping one between test runs is safe."""


@dataclass
class Bench:
    """A launcher under test, and what it may leave on disk."""

    launcher: RunscLauncher | SubprocessLauncher
    state_dir: Path
    capabilities: SandboxCapabilities
    opened: list[Sandbox] = field(default_factory=list)

    async def launch(self, call: SandboxCall | None = None) -> Sandbox:
        sandbox = await self.launcher.launch(call, name="contract/test")
        self.opened.append(sandbox)
        return sandbox

    async def run(self, source: str, *, arguments: dict[str, Any] | None = None, mounts: tuple[Mount, ...] = (), **limits: Any) -> Outcome:
        """Run `source`'s function `f` in a sandbox of its own."""
        call = call_of(source, arguments=arguments, mounts=mounts, **limits)
        sandbox = await self.launch(call)
        return await sandbox.run(call)

    def left(self) -> list[str]:
        """What is on disk of sandboxes."""
        folders = [self.state_dir / name for name in ("bundles", "runsc", "subprocess")]
        return [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()]


def call_of(source: str, *, arguments: dict[str, Any] | None = None, mounts: tuple[Mount, ...] = (), **limits: Any) -> SandboxCall:
    profile = Profile(**{"wall_s": 20.0, **limits})
    return SandboxCall(
        source=source, module="review.tools", function="f", arguments=json.dumps(arguments or {}).encode(), profile=profile, mounts=mounts
    )


def launcher_of(kind: str, state_dir: Path) -> RunscLauncher | SubprocessLauncher:
    if kind == "subprocess":
        return SubprocessLauncher(state_dir)
    return RunscLauncher(state_dir, build_rootfs(ROOTFS_CACHE))


@pytest.fixture(params=[pytest.param("runsc", marks=pytest.mark.runsc), "subprocess"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for made in bench_of(request.param, tmp_path):
        yield made


@pytest.fixture(params=[pytest.param("runsc", marks=pytest.mark.runsc)])
async def isolated(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async for made in bench_of(request.param, tmp_path):
        yield made


async def bench_of(kind: str, state_dir: Path) -> AsyncIterator[Bench]:
    launcher = launcher_of(kind, state_dir)
    cgroup = await launcher._cgroup_version() if isinstance(launcher, RunscLauncher) else ""
    bench = Bench(launcher, state_dir, SandboxCapabilities(name=kind, available=True, cgroup=cgroup))
    yield bench
    for sandbox in bench.opened:
        await sandbox.close()
    await launcher.close()
    assert bench.left() == []
    if cgroup and isinstance(launcher, RunscLauncher):
        assert groups_of(launcher) == []


def groups_of(launcher: RunscLauncher) -> list[str]:
    root = Path("/sys/fs/cgroup")
    parents = [root / launcher.cgroup_parent, *(root / name / launcher.cgroup_parent for name in ("memory", "pids", "cpu", "cpuacct"))]
    return [entry.name for parent in parents if parent.is_dir() for entry in parent.iterdir() if entry.is_dir()]


def require_cgroup(bench: Bench) -> None:
    if not bench.capabilities.cgroup:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root and a writable control group tree")


# ------------------------------------------------------------------------------------------------------- the usual


async def test_probe_says_what_works(bench: Bench) -> None:
    found = await bench.launcher.probe()
    assert found.available, found.reason
    assert found.isolates is (bench.capabilities.name == "runsc")
    assert found.version


async def test_a_function_gets_its_arguments_and_its_value_comes_back_as_json(bench: Bench) -> None:
    outcome = await bench.run(
        "def f(a, b=2):\n    print('working')\n    return {'sum': a + b, 'half': 0.5, 'none': None}\n", arguments={"a": 40}
    )
    assert (outcome.kind, outcome.message) == (OutcomeKind.OK, "")
    assert json.loads(outcome.value or b"") == {"sum": 42, "half": 0.5, "none": None}
    assert outcome.output == "working\n"
    assert not outcome.output_truncated
    assert outcome.wall_s > 0
    assert outcome.cpu_s is not None
    assert outcome.memory_peak_bytes is not None and outcome.memory_peak_bytes > MIB


async def test_one_without_a_call_serves_any_default_call(bench: Bench) -> None:
    sandbox = await bench.launch(None)
    outcome = await sandbox.run(call_of("import ast, json, sqlite3, ssl\ndef f(): return 1"))
    assert outcome.value == b"1", outcome


async def test_an_async_function_is_awaited(bench: Bench) -> None:
    outcome = await bench.run("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return [1, 2]\n")
    assert outcome.value == b"[1,2]", outcome


async def test_a_module_of_tools_and_agents_can_be_loaded(bench: Bench) -> None:
    source = """
from __future__ import annotations
import agentflow
from agentflow import Agent, Context, Retry, StepFailed, tool
from agentflow.errors import InvalidRequest

class Scout(Agent, name="scout"):
    async def run(self, context: Context) -> None: ...

@tool
def plain(x: int) -> int: return x

@tool(mounts=("folder",), wall_s=20)
def f(x: int) -> dict[str, int]:
    try:
        raise StepFailed("no")
    except agentflow.StepFailed as error:
        assert str(error) == "no"
    return {"x": plain(x)}
"""
    outcome = await bench.run(source, arguments={"x": 7})
    assert outcome.value == b'{"x":7}', outcome


async def test_what_needs_the_cluster_says_so_inside(bench: Bench) -> None:
    outcome = await bench.run("import agentflow\ndef f(): agentflow.connect()")
    assert (outcome.kind, outcome.error_type) == (OutcomeKind.ERROR, "RuntimeError")
    assert "agentflow.connect does not work inside a sandboxed tool" in outcome.message


async def test_an_error_of_agentflow_keeps_its_name(bench: Bench) -> None:
    outcome = await bench.run("from agentflow.errors import InvalidRequest\ndef f(): raise InvalidRequest('wrong', path='x')")
    assert (outcome.kind, outcome.error_type) == (OutcomeKind.ERROR, "InvalidRequest")


# ------------------------------------------------------------------------------------------------------- how calls end


async def test_exit_codes_come_back(bench: Bench) -> None:
    outcome = await bench.run("def f():\n    print('bye')\n    exit(3)")
    assert (outcome.kind, outcome.exit_code, outcome.output) == (OutcomeKind.EXIT, 3, "bye\n")
    outcome = await bench.run("import sys\ndef f(): sys.exit('because')")
    assert (outcome.kind, outcome.exit_code, outcome.message) == (OutcomeKind.EXIT, 1, "because")


async def test_an_exception_comes_back_with_its_place(bench: Bench) -> None:
    outcome = await bench.run("def g(x):\n    return 1 / x\ndef f():\n    return g(0)\n")
    assert (outcome.kind, outcome.error_type, outcome.value) == (OutcomeKind.ERROR, "ZeroDivisionError", None)
    assert outcome.message.startswith("ZeroDivisionError: division by zero\n")
    assert 'File "review/tools.py", line 2, in g' in outcome.message
    assert "return 1 / x" in outcome.message
    assert "worker" not in outcome.message


@pytest.mark.parametrize(
    ("source", "error_type"),
    [
        ("def f(:", "SyntaxError"),
        ("import not_there\ndef f(): pass", "ModuleNotFoundError"),
        ("def g(): pass", "AttributeError"),
        ("def f(a): pass", "TypeError"),
        ("def f(): return {1: 2}", "TypeError"),
        ("def f(): return {1, 2}", "TypeError"),
        ("def f(): return float('nan')", "TypeError"),
        ("def f():\n    x = []\n    x.append(x)\n    return x", "TypeError"),
        ("class Odd(Exception):\n    def __str__(self): raise ValueError\ndef f(): raise Odd", "Odd"),
        ("def f(): raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
async def test_mistakes_are_errors(isolated: Bench, source: str, error_type: str) -> None:
    outcome = await isolated.run(source)
    assert (outcome.kind, outcome.error_type) == (OutcomeKind.ERROR, error_type), outcome
    assert outcome.message


async def test_nul_and_lone_surrogates_survive(bench: Bench) -> None:
    outcome = await bench.run("def f(x):\n    print('a\\0b\\ud800c')\n    return {x: x + '\\0\\udfff'}", arguments={"x": "\ud800\0"})
    assert outcome.kind is OutcomeKind.OK, outcome
    assert outcome.value == b'{"\\ud800\\u0000":"\\ud800\\u0000\\u0000\\udfff"}'
    assert outcome.output == "a\0b\\ud800c\n"


async def test_bytes_that_are_no_text_are_replaced_in_the_output(bench: Bench) -> None:
    outcome = await bench.run("import os\ndef f(): os.write(1, b'\\xff\\xfe ok')")
    assert outcome.output == "\ufffd\ufffd ok"


async def test_a_hundred_megabytes_of_output_hurt_nobody(bench: Bench) -> None:
    outcome = await bench.run("def f():\n    for _ in range(100): print('x' * (1 << 20))\n    return 'done'", output_bytes=1000)
    assert (outcome.kind, outcome.value) == (OutcomeKind.OK, b'"done"'), outcome
    assert outcome.output == "x" * 1000
    assert outcome.output_truncated


async def test_output_is_kept_when_the_tool_hangs(bench: Bench) -> None:
    outcome = await bench.run("def f():\n    print('so far')\n    while True: pass", wall_s=0.5)
    assert (outcome.kind, outcome.output) == (OutcomeKind.TIMEOUT, "so far\n")
    assert outcome.wall_s >= 0.5


async def test_output_is_kept_when_the_tool_dies(bench: Bench) -> None:
    outcome = await bench.run("import os\ndef f():\n    print('so far')\n    os.kill(os.getpid(), 9)")
    assert (outcome.kind, outcome.output, outcome.exit_code) == (OutcomeKind.CRASH, "so far\n", 137), outcome


@pytest.mark.parametrize("code", ["os._exit(0)", "os._exit(128)", "ctypes.string_at(0)"])
async def test_an_end_without_an_answer_is_a_crash(bench: Bench, code: str) -> None:
    outcome = await bench.run(f"import os, ctypes\ndef f(): {code}")
    assert outcome.kind is OutcomeKind.CRASH, outcome
    assert "without an answer" in outcome.message


async def test_a_tool_that_eats_memory_gets_memory_error(bench: Bench) -> None:
    outcome = await bench.run("kept = []\ndef f():\n    while True: kept.append(bytearray(4 << 20))", address_space_bytes=128 * MIB)
    assert outcome.kind is OutcomeKind.MEMORY, outcome
    assert str(128 * MIB) in outcome.message


async def test_cpu_time_is_a_limit_of_its_own(bench: Bench) -> None:
    outcome = await bench.run("def f():\n    print('so far')\n    while True: pass", cpu_s=1.0)
    assert (outcome.kind, outcome.output) == (OutcomeKind.CPU, "so far\n"), outcome


async def test_cpu_time_ends_what_never_comes_back_to_python(bench: Bench) -> None:
    outcome = await bench.run("def f(): sum(range(10 ** 12))", cpu_s=1.0)
    assert outcome.kind is OutcomeKind.CPU, outcome


async def test_a_value_over_its_limit_is_an_error(bench: Bench) -> None:
    outcome = await bench.run("def f(): return 'x' * 5000", reply_bytes=1000)
    assert (outcome.kind, outcome.error_type, outcome.value) == (OutcomeKind.ERROR, "ValueTooLarge", None)
    assert "5002" in outcome.message and "1000" in outcome.message


FORGE = """
import json, os, struct
def send(*bodies):
    for fd in range(3, 20):
        try:
            for body in bodies: os.write(fd, struct.pack(">I", len(body)) + body)
        except OSError: pass
def f():
    {code}
    {end}
"""


@pytest.mark.parametrize(
    "code",
    [
        "[os.write(fd, struct.pack('>I', 1 << 31)) for fd in range(3, 20) if os.path.exists(f'/proc/self/fd/{fd}')]",
        "send(b'null')",
        'send(b\'{"kind": "timeout"}\')',
        'send(b\'{"kind": "oom"}\')',
        "send(b'{\"kind\": \"ok\"}', b'x' * 5000)",
        "send(b'{\"kind\": \"ok\"}', b'{')",
        "send(b'{\"kind\": \"ok\"}', b'\"' + b'x' * 5000 + b'\"')",
        "send(b'{\"kind\": \"exit\"' + b' ' * 70000 + b'}')",
        "send(b'{\"kind\": \"ok\"}', b'NaN')",
        "send(b'{\"kind\": \"ok\"}', b'[' * 4000)",
        "send(b'{\"kind\": \"ok\"}', '\"a\"'.encode('utf-16'))",
        'send(b\'{"kind": [], "message": 7}\')',
        "send(b'x' * 100000)",
    ],
)
async def test_a_forged_answer_is_a_crash(bench: Bench, code: str) -> None:
    outcome = await bench.run(FORGE.format(code=code, end="return 1"), reply_bytes=4500)
    assert outcome.kind is OutcomeKind.CRASH, outcome
    assert outcome.value is None


async def test_a_forged_answer_can_only_be_a_value_of_the_call_itself(bench: Bench) -> None:
    code = 'send(b\'{"kind": "ok", "exit_code": "x", "cpu_s": -1, "memory_peak_bytes": 1e400}\', b"7")'
    outcome = await bench.run(FORGE.format(code=code, end="os._exit(9)"))
    assert (outcome.kind, outcome.value, outcome.exit_code) == (OutcomeKind.OK, b"7", None)


# ------------------------------------------------------------------------------------------------------- one use, and its end


async def test_a_sandbox_serves_one_call(bench: Bench) -> None:
    sandbox = await bench.launch()
    assert (await sandbox.run(call_of("def f(): return 1"))).kind is OutcomeKind.OK
    assert (await sandbox.run(call_of("def f(): return 2"))).kind is OutcomeKind.LOST


async def test_closing_twice_and_unused_leaves_nothing(bench: Bench) -> None:
    sandbox = await bench.launch()
    assert bench.left() != []
    await sandbox.close()
    await sandbox.close()
    assert bench.left() == []


async def test_cancelling_a_call_ends_its_sandbox(bench: Bench) -> None:
    sandbox = await bench.launch()
    running = asyncio.create_task(sandbox.run(call_of("def f():\n    while True: print('x')")))
    await until(lambda: sandbox.output.text() != "")  # type: ignore[attr-defined]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await bench.launcher.close()
    assert bench.left() == []


async def test_cancelling_a_launch_leaves_nothing(bench: Bench) -> None:
    launching = asyncio.create_task(bench.launcher.launch(None, name="x"))
    await until(lambda: bench.left() != [])
    launching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launching
    await bench.launcher.close()
    assert bench.left() == []


async def test_one_that_died_while_it_waited_says_that_it_never_started_the_call(bench: Bench) -> None:
    sandbox = await bench.launch()
    process = sandbox.process  # type: ignore[attr-defined]
    process.kill()
    await asyncio.wait_for(process.wait(), 10)
    outcome = await sandbox.run(call_of("def f(): return 1"))
    assert outcome.kind is OutcomeKind.START_FAILED


async def test_a_launch_that_fails_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    launcher = SubprocessLauncher(tmp_path, python="/bin/false")
    with pytest.raises(Unavailable, match="did not start"):
        await launcher.launch(None, name="x")
    assert not (await launcher.probe()).available
    assert list((tmp_path / "subprocess").iterdir()) == []


async def test_no_isolation_is_refused_not_replaced(tmp_path: Path) -> None:
    launcher = RunscLauncher(tmp_path, tmp_path, program="no-such-runsc")
    found = await launcher.probe()
    assert not found.available
    assert "apt-get install" in found.reason
    with pytest.raises(SandboxRefused):
        await launcher.launch(None, name="x")
    assert await launcher.clean_up() == 0


async def test_cleaning_up_ends_what_the_dead_left_and_nothing_of_the_living(bench: Bench) -> None:
    folder = bench.state_dir / ("bundles" if bench.capabilities.name == "runsc" else "subprocess") / "af-of-the-dead"
    folder.mkdir(parents=True)
    for name in ("owner", ".owner"):
        (folder / name).write_text(own_mark().replace(str(os.getpid()), "1"))
    sandbox = await bench.launch()
    assert await bench.launcher.clean_up() == 1
    assert not folder.exists()
    assert (await sandbox.run(call_of("def f(): return 1"))).value == b"1"


OWNER = """
import asyncio, sys
from pathlib import Path
from agentflow.adapters.subprocess_unsafe import SubprocessLauncher
from agentflow.domain.sandbox import Profile, SandboxCall

async def main():
    sandbox = await SubprocessLauncher(Path(sys.argv[1])).launch(None, name="x")
    call = SandboxCall("def f():\\n    while True: pass", "m", "f", b"{}", Profile(wall_s=600.0))
    running = asyncio.create_task(sandbox.run(call))
    print(sandbox.process.pid, flush=True)
    await running

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot ask to end with its parent")
async def test_a_plain_process_ends_with_its_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None
        pid = int(await asyncio.wait_for(asyncio.to_thread(owner.stdout.readline), 30))
        assert psutil.pid_exists(pid)
    finally:
        owner.kill()
        owner.wait(10)
        owner.stdout.close()  # type: ignore[union-attr]
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert await SubprocessLauncher(tmp_path).clean_up() == 1
    assert list((tmp_path / "subprocess").iterdir()) == []


async def until(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------------------------------------------- mounts


async def test_a_mounted_folder_can_be_read(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.py").write_text("print()")
    source = "import os\ndef f(folder): return sorted(os.listdir(folder)), open(folder + '/deep/a.py').read()"
    outcome = await bench.run(source, arguments={"folder": "/mnt/0"}, mounts=(Mount(str(folder), "/mnt/0"),))
    assert outcome.value == b'[["deep"],"print()"]', outcome


async def test_a_private_folder_can_be_read_by_the_call_that_mounts_it(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    (folder / "a").write_text("mine")
    (folder / "a").chmod(0o600)
    if os.geteuid() == 0 and bench.capabilities.name == "runsc":
        for path in (folder / "a", folder):
            os.chown(path, 12345, 12345)
    source = "def f(folder): return open(folder + '/a').read()"
    outcome = await bench.run(source, arguments={"folder": "/mnt/0"}, mounts=(Mount(str(folder), "/mnt/0"),))
    assert outcome.value == b'"mine"', outcome


async def test_a_mount_is_read_only(isolated: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    source = "def f(folder): open(folder + '/new', 'w')"
    outcome = await isolated.run(source, arguments={"folder": "/mnt/0"}, mounts=(Mount(str(folder), "/mnt/0"),))
    assert (outcome.kind, outcome.error_type) == (OutcomeKind.ERROR, "OSError"), outcome
    assert list(folder.iterdir()) == []


async def test_links_in_a_mount_do_not_lead_out_of_it(isolated: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (tmp_path / "secret").write_text("host secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    (folder / "relative").symlink_to("../secret")
    (folder / "hosts_passwd").symlink_to("/etc/passwd")
    source = """
def f(folder):
    got = {}
    for name in ("absolute", "relative", "hosts_passwd"):
        try: got[name] = open(f"{folder}/{name}").read()
        except OSError as error: got[name] = type(error).__name__
    return got
"""
    outcome = await isolated.run(source, arguments={"folder": "/mnt/0"}, mounts=(Mount(str(folder), "/mnt/0"),))
    got = json.loads(outcome.value or b"null")
    assert got["absolute"] == got["relative"] == "FileNotFoundError"
    assert got["hosts_passwd"] != Path("/etc/passwd").read_text()


@pytest.mark.parametrize("target", ["/mnt/10", "/etc", "/mnt/0/../../etc", "mnt/0"])
async def test_only_the_prepared_mount_points_are_targets(isolated: Bench, tmp_path: Path, target: str) -> None:
    with pytest.raises(SandboxRefused, match="/mnt/0 to /mnt/9"):
        await isolated.launch(call_of("def f(): pass", mounts=(Mount(str(tmp_path), target),)))


async def test_a_source_that_is_a_link_or_not_there_is_refused(isolated: Bench, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for source in ("link", "nothing"):
        with pytest.raises(SandboxRefused, match="not there, or its path goes through a link"):
            await isolated.launch(call_of("def f(): pass", mounts=(Mount(str(tmp_path / source), "/mnt/0"),)))


# ------------------------------------------------------------------------------------------------------- isolation


async def test_the_network_is_not_there(isolated: Bench) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    source = """
import socket
def f(port):
    got = {}
    for name, address in {"host": ("127.0.0.1", port), "outside": ("1.1.1.1", 53), "metadata": ("169.254.169.254", 80)}.items():
        try: socket.create_connection(address, 2); got[name] = "connected"
        except OSError as error: got[name] = "refused"
    try: socket.getaddrinfo("example.com", 80); got["names"] = "resolved"
    except OSError: got["names"] = "refused"
    got["interfaces"] = [name for _, name in socket.if_nameindex()]
    return got
"""
    with listener:
        outcome = await isolated.run(source, arguments={"port": port})
    got = json.loads(outcome.value or b"null")
    assert got == {"host": "refused", "outside": "refused", "metadata": "refused", "names": "refused", "interfaces": ["lo"]}


async def test_the_host_is_not_visible(isolated: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    source = """
import os
def f(paths):
    got = {"seen": [path for path in paths if os.path.exists(path)], "uid": os.getuid(), "environment": sorted(os.environ)}
    got |= {"kernel": os.uname().release, "home": os.listdir("/root") + os.listdir("/home")}
    return got | {"pids": [p for p in os.listdir("/proc") if p.isdigit()]}
"""
    paths = [
        str(tmp_path / "secret"),
        str(Path(__file__).resolve()),
        "/etc/shadow",
        "/var/lib/dpkg",
        "/usr/bin/apt-get",
        "/sys/fs/cgroup/memory",
    ]
    outcome = await isolated.run(source, arguments={"paths": paths})
    got = json.loads(outcome.value or b"null")
    assert got["seen"] == []
    assert got["pids"] == ["1"]
    assert got["home"] == []
    assert got["kernel"] != os.uname().release
    assert set(got["environment"]) <= {"PATH", "HOME", "LANG", "LC_CTYPE", "TMPDIR", "PYTHONDONTWRITEBYTECODE"}
    assert got["uid"] == (65534 if os.geteuid() == 0 else 0)


async def test_only_the_temporary_folders_can_be_written_and_they_are_bounded(isolated: Bench) -> None:
    source = """
def f():
    got = {}
    for path in ("/etc/x", "/usr/lib/agentflow/sandbox_guest/worker.py", "/usr/bin/python3", "/x"):
        try: open(path, "w"); got[path] = "written"
        except OSError: pass
    for folder in ("/tmp", "/workspace"):
        size = 0
        try:
            with open(folder + "/big", "wb", buffering=0) as file:
                while size < 64 << 20: size += file.write(bytes(1 << 20))
        except OSError as error: got[folder] = [size, error.errno]
    return got
"""
    outcome = await isolated.run(source, disk_bytes=8 * MIB)
    assert json.loads(outcome.value or b"null") == {"/tmp": [8 * MIB, 28], "/workspace": [8 * MIB, 28]}


async def test_a_fork_bomb_ends_at_the_limit_and_is_gone_afterwards(isolated: Bench) -> None:
    source = """
import ctypes, os, time
def f():
    space = ctypes.CDLL(None, use_errno=True).unshare(0x10000000)
    made = 0
    try:
        for _ in range(300):
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            made += 1
    except OSError as error:
        return [space, made, error.errno]
    return [space, made, 0]
"""
    outcome = await isolated.run(source, processes=12)
    space, made, number = json.loads(outcome.value or b"null")
    assert space == -1, "a user namespace would lift the limit"
    assert made <= 12
    assert number == 11


async def test_threads_and_subprocesses_work(isolated: Bench) -> None:
    source = """
import subprocess, sys, threading
def f():
    got = []
    threads = [threading.Thread(target=got.append, args=(n,)) for n in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sorted(got), subprocess.run(["sh", "-c", "echo $((6 * 7))"], capture_output=True, text=True, check=True).stdout
"""
    outcome = await isolated.run(source)
    assert outcome.value == b'[[0,1,2,3,4],"42\\n"]', outcome


async def test_memory_over_the_sandboxs_limit_is_oom(isolated: Bench) -> None:
    require_cgroup(isolated)
    source = "kept = []\ndef f():\n    print('so far')\n    while True: kept.append(b'x' * (4 << 20))"
    outcome = await isolated.run(source, memory_bytes=96 * MIB, address_space_bytes=4096 * MIB)
    assert (outcome.kind, outcome.output) == (OutcomeKind.OOM, "so far\n"), outcome
    assert outcome.memory_peak_bytes is not None and 64 * MIB < outcome.memory_peak_bytes <= 96 * MIB


async def test_temporary_files_count_as_memory(isolated: Bench) -> None:
    require_cgroup(isolated)
    source = "def f():\n    with open('/tmp/big', 'wb') as file:\n        for _ in range(200): file.write(b'x' * (1 << 20))"
    outcome = await isolated.run(source, memory_bytes=96 * MIB, disk_bytes=400 * MIB)
    assert outcome.kind is OutcomeKind.OOM, outcome


async def test_running_out_of_host_processes_is_told_apart(isolated: Bench) -> None:
    require_cgroup(isolated)
    call = call_of(
        "import os, time\ndef f():\n    for _ in range(60):\n        if os.fork() == 0: time.sleep(60)\n    time.sleep(60)", processes=100
    )
    sandbox = await isolated.launch(call)
    entries = sandbox.group.entries  # type: ignore[attr-defined]
    pids = next(entry.parent for entry in entries if (entry.parent / "pids.max").exists())
    (pids / "pids.max").write_text(str(int((pids / "pids.current").read_text()) + 40))
    outcome = await sandbox.run(call)
    assert outcome.kind is OutcomeKind.PIDS, outcome


async def test_cpu_share_is_held_by_the_host(isolated: Bench) -> None:
    require_cgroup(isolated)
    outcome = await isolated.run("def f():\n    while True: pass", cpu=0.2, wall_s=2.0)
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert outcome.cpu_s is not None and outcome.cpu_s < 1.5


_: Callable[..., Awaitable[Sandbox]] = RunscLauncher.launch  # the adapters honour the port, says the type checker
