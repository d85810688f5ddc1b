"""The directory of a folder's server, with its data, locks and log; for root's server, one its account can reach."""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from oban_sa.embedded import supervisor
from oban_sa.embedded.account import Account, choose_account
from oban_sa.embedded.binaries import Binaries
from oban_sa.embedded.lock import SharedLock, is_locked
from oban_sa.embedded.server import Server
from oban_sa.errors import EmbeddedError

logger = logging.getLogger("oban_sa.embedded")

NAME = "postgresql"
SHARED = Path("/var/lib/oban_sa")
"""Where root puts copies of programs, and data, that the server's account can't reach where they are."""


@dataclass(frozen=True, slots=True)
class Home:
    """The directory `path` of the server of `folder`, private (0700) to the account that runs it."""

    folder: Path
    path: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.path / supervisor.DATA

    @property
    def log(self) -> Path:
        return self.path / supervisor.LOG

    def running(self) -> Server | None:
        """Return the server that runs here, or None."""
        try:
            fd = os.open(self.path / supervisor.SERVER, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(fd, encoding="utf-8") as file:
            return Server.from_json(file.read(), folder=self.folder) if is_locked(fd) else None

    def is_supervised(self) -> bool:
        """Return whether a supervisor runs here; it may be starting or stopping the server."""
        try:
            fd = os.open(self.path / supervisor.LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return is_locked(fd)
        finally:
            os.close(fd)

    def open_lock(self) -> SharedLock:
        """Open the lock that the users of the server share, without taking it."""
        return SharedLock(self.path / supervisor.USERS, owner=self.account.uid if self.account else None)

    def last_port(self) -> int | None:
        try:
            return int((self.path / supervisor.PORT).read_text())
        except (OSError, ValueError):
            return None

    def failure(self) -> tuple[str, str]:
        """Return why the last supervisor failed: a kind, "port" or empty, and a message."""
        try:
            kind, _, message = (self.path / supervisor.FAILURE).read_text(encoding="utf-8").partition("\n")
        except OSError:
            return "", f"its supervisor ended without a message; {self.log} may tell why"
        return kind, message


def home_in(folder: Path) -> Home:
    """Return the home of the server of `folder`, an absolute path, and make it where it is missing."""
    try:
        if os.geteuid() != 0:
            _make(folder, 0o700)
            return _own_home(folder)
        # 0755 at once: another process that starts now may enter it before it has its owner.
        return _home_of_root(folder, made=_make(folder, 0o755))
    except OSError as error:
        raise EmbeddedError(f"no server can live in {folder}: {error}; choose another folder") from error


def readable(binaries: Binaries, home: Home) -> Binaries:
    """Return the binaries where the account that runs the server can read them, in a copy if it has to be."""
    account = home.account
    if account is None or account.can_run(binaries.folder):
        return binaries
    base, trees = binaries.trees
    copy = SHARED / f"{NAME}-{binaries.version}"
    folder = copy / binaries.folder.relative_to(base)
    try:
        if not copy.exists():
            _share()
            fresh = SHARED / f".{copy.name}-{secrets.token_hex(4)}"
            for tree in trees:
                shutil.copytree(tree, fresh / tree.relative_to(base), symlinks=True)
            for path in (fresh, *fresh.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            try:
                fresh.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(fresh)
            logger.warning("account %r can't read %s, so it gets a copy, %s", account.name, binaries.folder, copy)
    except OSError as error:
        raise EmbeddedError(_unreadable(binaries, account, str(error))) from error
    if not account.can_run(folder):
        raise EmbeddedError(_unreadable(binaries, account, f"the copy in {copy} does not run"))
    return replace(binaries, folder=folder)


def _unreadable(binaries: Binaries, account: Account, reason: str) -> str:
    return (
        f"root's PostgreSQL runs as account {account.name!r}, which can't read {binaries.folder} ({reason}); "
        "keep the virtual environment where every account can read it, or install the system's own PostgreSQL"
    )


def _own_home(folder: Path) -> Home:
    path = folder / NAME
    _make(path, 0o700)
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedError(
            f"{path} belongs to account {_name(owner)!r}; use it as that account, or choose another folder"
        )
    return Home(folder, path, None)


def _home_of_root(folder: Path, *, made: bool) -> Home:
    path = _elsewhere(folder) or folder / NAME
    account = choose_account(path, folder)
    if made:
        os.chown(folder, account.uid, account.gid)
    if path.parent == folder and not account.can_enter(folder):
        _share()
        path = _point_elsewhere(folder, SHARED / f"data-{secrets.token_hex(8)}")
        logger.warning("account %r can't enter %s, so its server lives in %s", account.name, folder, path)
    _make(path, 0o700)
    # In this order: another process that starts now changes the owner before it writes anything there.
    is_new = not any(path.iterdir())
    if path.lstat().st_uid == 0:
        if not is_new:
            raise EmbeddedError(f"{path} belongs to root and has other files in it; choose another folder")
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return Home(folder, path, account)


def _elsewhere(folder: Path) -> Path | None:
    pointer = folder / f"{NAME}.elsewhere"
    if not pointer.exists() or pointer.lstat().st_uid != 0:
        return None
    path = Path(pointer.read_text().strip())
    return path if path.parent == SHARED else None


def _point_elsewhere(folder: Path, path: Path) -> Path:
    """Record that the home is `path`, unless another process has recorded one; return the recorded one."""
    pointer = folder / f"{NAME}.elsewhere"
    draft = folder / f".{NAME}.{secrets.token_hex(4)}"
    draft.write_text(f"{path}\n")
    try:
        os.link(draft, pointer)
    except FileExistsError:
        other = _elsewhere(folder)
        if other is None:
            raise EmbeddedError(f"{pointer} was not written by root; remove it, or choose another folder") from None
        return other
    finally:
        draft.unlink()
    return path


def _share() -> None:
    SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    if SHARED.stat().st_uid != 0:
        raise EmbeddedError(f"{SHARED} belongs to account {_name(SHARED.stat().st_uid)!r}, so root won't rely on it")
    SHARED.chmod(0o755)


def _make(path: Path, mode: int) -> bool:
    """Make a directory and its parents; return False where it existed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=mode)
    except FileExistsError:
        if not path.is_dir():
            raise
        return False
    return True


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
