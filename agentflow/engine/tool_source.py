"""Finds a tool's function and the text of its module in the application folder, as they are on disk now."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from agentflow.domain.tool import Tool
from agentflow.errors import InvalidRequest

CACHED_TOOLS = 512
CODE_FILES = 20_000
"""More than this in an application folder is a mistake (a virtual environment, a home folder)."""
SKIPPED_FOLDERS = frozenset({"__pycache__", ".git", ".venv", "venv", "node_modules", ".mypy_cache", ".ruff_cache"})


@dataclass(frozen=True, slots=True)
class LoadedTool:
    tool: Tool[Any, Any]
    source: str
    module: str
    function: str


class ToolSource:
    """Loads tools by import path. A module is loaded under a private name for each code hash, so edited code is seen."""

    def __init__(self, app_dir: Path) -> None:
        self._app_dir = app_dir
        self._loaded: dict[tuple[str, str], LoadedTool] = {}

    def load(self, uses: str, code_hash: str) -> LoadedTool:
        """Runs the module once per code hash. Raises InvalidRequest: no such module or function, not a tool, or it does not import."""
        found = self._loaded.get((uses, code_hash))
        if found is None:
            if len(self._loaded) >= CACHED_TOOLS:
                self._loaded.clear()
            found = self._loaded[(uses, code_hash)] = self._load(uses, code_hash)
        return found

    def _load(self, uses: str, code_hash: str) -> LoadedTool:
        module_name, _, function = uses.partition(":")
        path = module_path(self._app_dir, module_name)
        if path is None or not function.isidentifier():
            raise InvalidRequest(f"tool {uses}: there is no module {module_name!r} in {self._app_dir}")
        module = self._run(uses, module_name, path, code_hash)
        tool = getattr(module, function, None)
        if not isinstance(tool, Tool):
            what = "has no such function" if tool is None else "is not marked @tool"
            raise InvalidRequest(f"tool {uses}: {function!r} {what} in {path}")
        return LoadedTool(tool, path.read_text(encoding="utf-8"), module_name, tool.function.__qualname__)

    @staticmethod
    def _run(uses: str, module_name: str, path: Path, code_hash: str) -> ModuleType:
        # Under its own name in __name__ (so that `uses` and relative imports are right) but not in sys.modules: the next
        # version of the file must not find this one there.
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(module_name)
        sys.modules[module_name] = module  # dataclasses and typing look their module up while it runs
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise InvalidRequest(f"tool {uses}: {path} does not import: {type(error).__name__}: {error}") from error
        finally:
            if before is None:
                sys.modules.pop(module_name, None)
            else:
                sys.modules[module_name] = before
        return module


def module_path(app_dir: Path, module: str) -> Path | None:
    """The file of a module inside `app_dir`; None if there is none."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    plain = app_dir.joinpath(*parts).with_suffix(".py")
    package = app_dir.joinpath(*parts, "__init__.py")
    return plain if plain.is_file() else package if package.is_file() else None


class CodeHash:
    """The hash of an application folder's Python and YAML files: 16 hex digits, the same for the same names and contents."""

    def __init__(self, app_dir: Path) -> None:
        self._app_dir = app_dir
        self._known: dict[str, tuple[int, int, bytes]] = {}

    def now(self) -> str:
        """Walks the folder; a file is read again when its size or modification time changed. Raises InvalidRequest over CODE_FILES."""
        digest = hashlib.sha256()
        seen = 0
        for folder, folders, files in os.walk(self._app_dir):
            folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
            for name in sorted(files):
                if name.endswith((".py", ".yaml", ".yml")):
                    seen += 1
                    if seen > CODE_FILES:
                        raise InvalidRequest(
                            f"the application folder {self._app_dir} has over {CODE_FILES} source files; name a smaller one"
                        )
                    path = os.path.join(folder, name)
                    digest.update(os.path.relpath(path, self._app_dir).encode("utf-8", "surrogateescape") + b"\0" + self._of(path))
        return digest.hexdigest()[:16]

    def _of(self, path: str) -> bytes:
        try:
            stat = os.stat(path)
            known = self._known.get(path)
            if known is not None and known[:2] == (stat.st_mtime_ns, stat.st_size):
                return known[2]
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).digest()
        except OSError:
            return b""
        self._known[path] = (stat.st_mtime_ns, stat.st_size, digest)
        return digest
