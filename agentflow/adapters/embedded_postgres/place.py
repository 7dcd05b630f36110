"""Where one embedded PostgreSQL keeps its files, and as which operating system user it runs.

PostgreSQL refuses to run as root, and the user it then runs as cannot enter root's home (mode 700). Opening up the home is
no answer, so that with root everything lies under ``/var/lib/agentflow/<hash of the home folder>``, owned by a system user
of its own; without root it lies in the home folder and runs as who started it.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from agentflow.errors import Unavailable

SYSTEM_USER = "agentflow-postgres"
ROOT_STATE = Path("/var/lib/agentflow")
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_LIMIT = 107
"""`sun_path` of sockaddr_un is 108 bytes on Linux, the last one a NUL."""


@dataclass(frozen=True, slots=True)
class Account:
    """The operating system user that PostgreSQL runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Place:
    """Paths of one PostgreSQL. `account` is None when it runs as the current user."""

    root: Path
    log: Path
    account: Account | None

    @property
    def cluster(self) -> Path:
        """PostgreSQL's own folder, PGDATA."""
        return self.root / "pgdata"

    @property
    def password(self) -> Path:
        return self.root / "password"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def sockets(self) -> Path:
        """A folder that only we and PostgreSQL's user may enter, with a path short enough for a socket."""
        inside = self.root / "run"
        if len(os.fsencode(inside / SOCKET_NAME)) <= SOCKET_PATH_LIMIT:
            return inside
        runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        return Path(runtime) / f"agentflow-{os.geteuid()}-{_digest(self.root)}"


def place_of(home: Path) -> Place:
    """The place for this home folder; changes nothing and asks for no account that is not there yet."""
    home = home.resolve()
    log = home / "logs" / "postgres.log"
    if os.geteuid() != 0:
        return Place(root=home / "postgres", log=log, account=None)
    return Place(root=ROOT_STATE / _digest(home), log=log, account=_find_account())


def prepare(home: Path) -> Place:
    """Make the folders, and with root the account. Idempotent. Raises Unavailable."""
    if os.geteuid() == 0 and _find_account() is None:
        _add_account()
    place = place_of(home)
    try:
        place.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.account:
            _own_folder(ROOT_STATE, None, 0o755)
        _own_folder(place.root, None, 0o711 if place.account else 0o700)
        _own_folder(place.cluster, place.account, 0o700)
        _own_folder(place.sockets, place.account, 0o700)
        (place.root / "home").write_text(f"{home.resolve()}\n")
    except OSError as error:
        raise Unavailable(
            f"PostgreSQL's folder {place.root} cannot be made: {error}. Check its permissions and the disk's free space."
        ) from error
    return place


def remove(place: Place) -> None:
    """Delete everything in the place; PostgreSQL must be stopped."""
    shutil.rmtree(place.sockets, ignore_errors=True)
    shutil.rmtree(place.root, ignore_errors=True)


def _own_folder(path: Path, account: Account | None, mode: int) -> None:
    """Make the folder with this owner and mode; refuses one that somebody else put there (it may be in /tmp)."""
    uid, gid = (account.uid, account.gid) if account else (os.geteuid(), os.getegid())
    path.mkdir(parents=True, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid not in (os.geteuid(), uid):
        raise PermissionError(f"{path} is a link or belongs to another user (uid {found.st_uid})")
    path.chmod(mode)
    if found.st_uid != uid:
        os.chown(path, uid, gid)


def _digest(path: Path) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=6).hexdigest()


def _find_account() -> Account | None:
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None
    return Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)


def _add_account() -> None:
    command = [
        "useradd",
        "--system",
        "--user-group",
        "--no-create-home",
        "--home-dir",
        str(ROOT_STATE),
        "--shell",
        "/usr/sbin/nologin",
        SYSTEM_USER,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        done = subprocess.CompletedProcess(command, 1, "", str(error))
    if done.returncode != 0 and _find_account() is None:
        raise Unavailable(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made: {done.stderr.strip()}. "
            f"Make it yourself (`{' '.join(command)}`), or start as another user than root, or set AGENTFLOW_DATABASE_URL."
        )
