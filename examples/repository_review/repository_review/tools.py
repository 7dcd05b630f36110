"""The tools of the review. What they read is not ours, so they run in gVisor and import the standard library only.

A sandbox gets the text of this one file: everything that both tools need stands here. Both are bounded (files, bytes,
seconds, length of every list and text), and say in `truncated` where they stopped. Nothing that a reviewed file holds
is run or imported: it is read as bytes and parsed by `ast`.
"""

from __future__ import annotations

import ast
import io
import os
import re
import stat
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agentflow import tool

TOP_LEVEL = "(top-level modules)"
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__", "node_modules"})
TEST_FOLDERS = re.compile(r"^(tests?|.*_tests?)$")
TEST_FILES = re.compile(r"^(test_.*|.*_test|conftest)\.py$")
MAX_DEPTH = 40
MAX_FILE_BYTES = 1 << 20
COMPLEX = 10
"""Above this cyclomatic complexity a function counts as complex (McCabe's own limit)."""
EXAMPLES = 6
"""How many of each kind of finding are listed; all are counted."""

HIGH, MEDIUM = "high", "medium"
RISKS = {
    name: (severity, why)
    for severity, why, names in (
        (HIGH, "runs text as code", "eval exec"),
        (
            HIGH,
            "hands text to a shell",
            "os.system os.popen subprocess.getoutput subprocess.getstatusoutput asyncio.create_subprocess_shell",
        ),
        (HIGH, "a pickle runs code when it is read", "pickle.load pickle.loads pickle.Unpickler _pickle.loads dill.load dill.loads"),
        (HIGH, "a shelf is made of pickles", "shelve.open"),
        (HIGH, "makes any object that the file names", "yaml.load yaml.unsafe_load"),
        (MEDIUM, "crashes the interpreter on bad input", "marshal.load marshal.loads"),
        (MEDIUM, "calls native code without checks", "ctypes.CDLL ctypes.PyDLL ctypes.WinDLL ctypes.OleDLL"),
        (MEDIUM, "calls native code without checks", "ctypes.cdll.LoadLibrary ctypes.windll.LoadLibrary"),
        (MEDIUM, "reads or writes any memory", "ctypes.string_at ctypes.memmove ctypes.memset"),
        (MEDIUM, "another process can take the name first", "tempfile.mktemp"),
        (MEDIUM, "does not check who answers", "ssl._create_unverified_context"),
    )
    for name in names.split()
}
"""Calls to look at, by their full name: how much they matter and why."""
LAST_NAMES = frozenset(name.rpartition(".")[2] for name in RISKS)
SAFE_LOADERS = frozenset({"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"})
MARKER = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@tool(mounts=("folder",), wall_s=60)
def find_packages(folder: str, include_tests: bool = False, max_packages: int = 150, max_entries: int = 50_000) -> dict[str, Any]:
    """Find the packages in a folder of Python code.

    A package is a folder with Python files in it; a folder that only holds such folders (`src`) is looked into. Returns
    {packages: [{name, folder, files, top_level_only}], folders_skipped, truncated}; `folder` is relative to the one that
    was given, `""` for the modules that lie directly in it. Links are not followed.
    """
    found: list[dict[str, Any]] = []
    skipped = entries = 0
    pending = [("", 0)]
    while pending and entries <= max_entries:
        relative, depth = pending.pop(0)
        files, folders, left_out = _list(os.path.join(folder, relative), include_tests)
        skipped += left_out
        entries += len(files) + len(folders)
        if relative and files:
            below, seen = _count_below(folder, relative, include_tests, max_entries - entries)
            entries += seen
            found.append({"name": _shown(relative), "folder": relative, "files": below, "top_level_only": False})
        else:
            if files:
                found.append({"name": TOP_LEVEL, "folder": "", "files": len(files), "top_level_only": True})
            if depth < 4:
                pending += [(os.path.join(relative, name), depth + 1) for name in folders]
    truncated = f"stopped after {max_entries} files and folders" if entries > max_entries else ""
    names = Counter(package["name"] for package in found)
    for number, package in enumerate(found, 1):
        if names[package["name"]] > 1:  # long or strange names may look alike once they are made printable
            package["name"] += f" ({number})"
    found.sort(key=lambda package: (-package["files"], package["name"]))
    if len(found) > max_packages:
        truncated = f"the {max_packages} largest of {len(found)} packages"
    return {"packages": found[:max_packages], "folders_skipped": skipped, "truncated": truncated}


def _count_below(root: str, relative: str, include_tests: bool, limit: int) -> tuple[int, int]:
    """Python files in a package, and how many entries were seen to know it."""
    count = seen = 0
    for _, names in _walk(os.path.join(root, relative), include_tests):
        count += len(names)
        seen += len(names) + 1
        if seen > limit:
            break
    return count, seen


def _list(path: str, include_tests: bool) -> tuple[list[str], list[str], int]:
    """Names of the Python files and of the folders to look into, sorted; and how many folders are left out on purpose."""
    files, folders, left_out = [], [], 0
    try:
        with os.scandir(path) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        return [], [], 1
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir(follow_symlinks=False):
            hidden = entry.name in SKIPPED_FOLDERS or entry.name.startswith(".")
            hidden = hidden or (not include_tests and TEST_FOLDERS.match(entry.name) is not None)
            if hidden or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                left_out += 1
            else:
                folders.append(entry.name)
        elif entry.name.endswith(".py") and (include_tests or not TEST_FILES.match(entry.name)):
            files.append(entry.name)
    return files, folders, left_out


def _walk(path: str, include_tests: bool, top_level_only: bool = False) -> Iterator[tuple[str, list[str]]]:
    """(folder relative to `path`, its Python files), from the top down, in the order of names."""
    pending = [("", 0)]
    while pending:
        relative, depth = pending.pop()
        files, folders, _ = _list(os.path.join(path, relative), include_tests)
        yield relative, files
        if not top_level_only and depth < MAX_DEPTH:
            pending += [(os.path.join(relative, name), depth + 1) for name in reversed(folders)]


@dataclass(slots=True)
class Findings:
    """What is summed up over the files of one package. Lists hold (sort key, finding) and are kept short."""

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0
    complex_functions: int = 0
    public: int = 0
    documented: int = 0
    todos: int = 0
    problems: int = 0
    risks: Counter[str] = field(default_factory=Counter)
    listed: dict[str, list[tuple[int, dict[str, Any]]]] = field(default_factory=dict)

    def note(self, kind: str, weight: int, finding: dict[str, Any]) -> None:
        """Keep `finding` if it is among the EXAMPLES heaviest of its kind; the first found wins a tie."""
        kept = self.listed.setdefault(kind, [])
        if len(kept) < EXAMPLES or weight > kept[-1][0]:
            kept.append((weight, finding))
            kept.sort(key=lambda pair: -pair[0])
            del kept[EXAMPLES:]

    def heaviest(self, kind: str) -> list[dict[str, Any]]:
        return [finding for _, finding in self.listed.get(kind, [])]


@tool(mounts=("folder",), wall_s=90, memory_bytes=768 << 20, address_space_bytes=640 << 20)
def analyse_package(
    folder: str,
    name: str = "",
    top_level_only: bool = False,
    include_tests: bool = False,
    max_files: int = 600,
    max_seconds: float = 60.0,
) -> dict[str, Any]:
    """Measure one package: size, complexity, docstrings, open ends, risky calls, files that do not parse.

    Complexity is McCabe's: 1 for a function, plus 1 for each branch, loop, handler, condition, assertion and `and`/`or`.
    Code lines are neither blank nor comment nor docstring. Lists are the heaviest few; counts are of everything.
    """
    found = Findings()
    deadline = time.monotonic() + max_seconds
    truncated = ""
    for relative, names in _walk(folder, include_tests, top_level_only):
        for file_name in names:
            if found.files >= max_files:
                truncated = f"only the first {max_files} files were read"
            elif time.monotonic() > deadline:
                truncated = f"stopped after {max_seconds:g} s; {found.files} files were read"
            if truncated:
                return _report(name, found, truncated)
            found.files += 1
            _measure(folder, os.path.join(relative, file_name), found)
    return _report(name, found, truncated)


def _report(name: str, found: Findings, truncated: str) -> dict[str, Any]:
    top = found.heaviest("function")
    return {
        "name": name,
        "files": found.files,
        "lines": found.lines,
        "code_lines": found.code_lines,
        "functions": found.functions,
        "classes": found.classes,
        "complexity": {
            "mean": round(found.complexity / found.functions, 2) if found.functions else 0.0,
            "max": top[0]["complexity"] if top else 0,
            "over_limit": found.complex_functions,
            "top": top,
        },
        "docstrings": {"public": found.public, "documented": found.documented},
        "todos": {"count": found.todos, "first": found.heaviest("todo")},
        "risky_calls": {
            "high": sum(count for call, count in found.risks.items() if _severity(call) == HIGH),
            "medium": sum(count for call, count in found.risks.items() if _severity(call) == MEDIUM),
            "by_call": dict(found.risks.most_common()),
            "first": found.heaviest("risk"),
        },
        "problems": {"count": found.problems, "first": found.heaviest("problem")},
        "truncated": truncated,
    }


def _measure(root: str, relative: str, found: Findings) -> None:
    """Read and measure one file; whatever is wrong with it becomes a problem in `found`."""
    shown = _shown(relative)
    try:
        source = _read(os.path.join(root, relative))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = io.TextIOWrapper(io.BytesIO(source), encoding, errors="replace").read()
        _measure_tree(tree, shown, found, text)
    except SyntaxError as error:
        _problem(found, shown, error.lineno or 1, "syntax error", error.msg or "cannot be parsed")
    except (RecursionError, MemoryError):
        _problem(found, shown, 1, "too deep", "nested too deeply, or too large, to be parsed here")
    except (ValueError, LookupError) as error:
        _problem(found, shown, 1, "not text", str(error))
    except OSError as error:
        _problem(found, shown, 1, "not readable", error.strerror or type(error).__name__)


def _read(path: str) -> bytes:
    """The bytes of a regular file. Raises OSError for anything else (a pipe would block for ever), ValueError when it is huge."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "not a regular file")
        source = file.read(MAX_FILE_BYTES + 1)
    if len(source) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB; left out")
    return source


@dataclass(slots=True)
class Scope:
    """Where a node stands: the function that its branches count for, its dotted name, whether users see what it holds."""

    prefix: str
    public: bool
    line: int = 0
    function: bool = False
    complexity: int = 1


def _measure_tree(tree: ast.Module, shown: str, found: Findings, text: str) -> None:
    """One pass without recursion (a hostile file may be nested deeper than Python's stack)."""
    module = Scope("", True)
    scopes: list[Scope] = []
    aliases: dict[str, str] = {}
    calls: list[ast.Call] = []
    docstring_lines = _docstring(tree, True, found)
    stack: list[tuple[ast.AST, Scope]] = [(tree, module)]
    while stack:
        node, scope = stack.pop()
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            public = scope.public and not scope.function and not node.name.startswith("_")
            docstring_lines += _docstring(node, public, found)
            inner = Scope(f"{scope.prefix}{node.name}.", public, node.lineno, isinstance(node, FUNCTIONS))
            if isinstance(node, ast.ClassDef):
                found.classes += 1
            else:
                scopes.append(inner)
            scope = inner
        elif isinstance(node, ast.Call):
            if _last_name(node.func) in LAST_NAMES or any(keyword.arg == "shell" for keyword in node.keywords):
                calls.append(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            _remember_imports(node, aliases)
        else:
            scope.complexity += _branches(node)
        stack.extend([(child, scope) for child in ast.iter_child_nodes(node)])
    for scope in scopes:
        found.functions += 1
        found.complexity += scope.complexity
        found.complex_functions += scope.complexity > COMPLEX
        function = {"file": shown, "line": scope.line, "function": _shown(scope.prefix[:-1], 80), "complexity": scope.complexity}
        found.note("function", scope.complexity, function)
    own = {scope.prefix[:-1] for scope in scopes}
    for call in sorted(calls, key=lambda call: call.lineno):
        _judge(call, aliases, own, shown, found)
    _count_lines(text, shown, docstring_lines, found)


def _branches(node: ast.AST) -> int:
    """What a node adds to the complexity of the function around it."""
    if isinstance(node, BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return int(not (isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None and node.guard is None))
    return 0


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, public: bool, found: Findings) -> int:
    """Count a public definition and its docstring; returns how many lines the docstring takes."""
    first = node.body[0] if node.body else None
    lines = 0
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines = (first.end_lineno or first.lineno) - first.lineno + 1
    if public and (node.body or not isinstance(node, ast.Module)):
        found.public += 1
        found.documented += lines > 0
    return lines


def _remember_imports(node: ast.Import | ast.ImportFrom, aliases: dict[str, str]) -> None:
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            aliases[alias.asname or alias.name] = "." * node.level + f"{node.module or ''}.{alias.name}"
        elif alias.asname:
            aliases[alias.asname] = alias.name


def _last_name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


def _dotted(function: ast.expr, aliases: dict[str, str]) -> str:
    """`sp.run` as `subprocess.run` under the file's imports; empty for what is not a plain dotted name."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return ".".join([aliases.get(function.id, function.id), *reversed(parts)])


def _judge(call: ast.Call, aliases: dict[str, str], own: set[str], shown: str, found: Findings) -> None:
    """Count `call` if it is a risky one; `own` are the functions of the file, which may bear the name of a built-in."""
    dotted = _dotted(call.func, aliases)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    shell = keywords.get("shell")
    if dotted.startswith("subprocess.") and isinstance(shell, ast.Constant) and shell.value is True:
        dotted = "subprocess, shell=True"
    elif dotted not in RISKS or dotted in own:
        return
    if dotted == "yaml.load" and _last_name(keywords.get("Loader") or (call.args[1] if len(call.args) > 1 else call.func)) in SAFE_LOADERS:
        return
    why = RISKS.get(dotted, (HIGH, "hands text to a shell"))[1]
    found.risks[dotted] += 1
    severity = _severity(dotted)
    found.note("risk", int(severity == HIGH), {"file": shown, "line": call.lineno, "call": dotted, "severity": severity, "why": why})


def _severity(call: str) -> str:
    return RISKS.get(call, (HIGH, ""))[0]


def _count_lines(text: str, shown: str, docstring_lines: int, found: Findings) -> None:
    lines = text.split("\n")
    if lines and not lines[-1]:
        del lines[-1]
    found.lines += len(lines)
    stripped = [line.strip() for line in lines]
    code = sum(1 for line in stripped if line and not line.startswith("#"))
    found.code_lines += max(0, code - docstring_lines)
    if not MARKER.search(text):
        return
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT and MARKER.search(token.string):
                found.todos += 1
                comment = token.string.lstrip("#: ").strip()
                weight = 2 if "FIXME" in comment else 1 if "TODO" in comment else 0
                found.note("todo", weight, {"file": shown, "line": token.start[0], "text": _shown_start(comment, 120)})
    except (SyntaxError, tokenize.TokenError):
        return  # it parsed; the pure-Python tokenizer is stricter in corners


def _problem(found: Findings, shown: str, line: int, kind: str, message: str) -> None:
    found.problems += 1
    found.note("problem", 0, {"file": shown, "line": line, "kind": kind, "message": _shown_start(message)})


def _shown(text: str, limit: int = 120) -> str:
    """A path or name of the reviewed code, safe to store and show: printable, at most `limit` bytes, its end kept."""
    body = _printable(text[-limit:]).encode()
    return body.decode() if len(body) <= limit and len(text) <= limit else "…" + body[3 - limit :].decode("utf-8", "ignore")


def _shown_start(text: str, limit: int = 160) -> str:
    """The same for prose, whose start is kept."""
    body = _printable(text[:limit]).encode()
    return body.decode() if len(body) <= limit and len(text) <= limit else body[: limit - 3].decode("utf-8", "ignore") + "…"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
