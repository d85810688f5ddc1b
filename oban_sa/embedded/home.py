"""The place that a folder's server lives in: its data, its locks, its log."""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from oban_sa.embedded.account import Account, lent
from oban_sa.embedded.binaries import Binaries
from oban_sa.embedded.failure import EmbeddedError
from oban_sa.embedded.lock import is_held
from oban_sa.embedded.server import Server

logger = logging.getLogger("oban_sa.embedded")

NAME = "postgresql"
SHARED = Path("/var/lib/oban_sa")
"""Where root puts what another account has to reach and can't where it is."""


@dataclass(frozen=True, slots=True)
class Home:
    """A private directory (0700) of the account that runs the server; everything below it is ours alone."""

    folder: Path
    path: Path
    account: Account | None

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def users(self) -> Path:
        return self.path / "users.lock"

    @property
    def log(self) -> Path:
        return self.path / "log"

    def running(self) -> Server | None:
        """The server that runs here, if one does."""
        try:
            fd = os.open(self.path / "server.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(fd, encoding="utf-8") as file:
            return Server.from_json(file.read(), folder=self.folder) if is_held(fd) else None

    def is_supervised(self) -> bool:
        """Whether a supervisor is at work here, be it starting or stopping the server."""
        try:
            fd = os.open(self.path / "server.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return is_held(fd)
        finally:
            os.close(fd)

    def last_port(self) -> int | None:
        try:
            return int((self.path / "port").read_text())
        except (OSError, ValueError):
            return None

    def failure(self) -> tuple[str, str]:
        """What the last supervisor that failed left behind: a kind, and a message."""
        try:
            kind, _, message = (self.path / "failure").read_text(encoding="utf-8").partition("\n")
        except OSError:
            return "", f"its supervisor ended without a word; {self.log} may tell why"
        return kind, message


def home_in(folder: Path) -> Home:
    """The home of the server of `folder`, made where it is missing; `folder` is absolute."""
    try:
        if os.geteuid() != 0:
            _make(folder, 0o700)
            return _own_home(folder)
        # Open to be passed through at once: another process that starts now may ask before it has its owner.
        return _lent_home(folder, made=_make(folder, 0o755))
    except OSError as error:
        raise EmbeddedError(f"no server can live in {folder}: {error}; choose another folder") from error


def readable(binaries: Binaries, home: Home) -> Binaries:
    """The same binaries where the account that runs the server can read them: a copy, if need be."""
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


def _lent_home(folder: Path, *, made: bool) -> Home:
    path = _elsewhere(folder) or folder / NAME
    account = lent(path, folder)
    if made:
        os.chown(folder, account.uid, account.gid)
    if path.parent == folder and not account.can_enter(folder):
        _share()
        path = _point_elsewhere(folder, SHARED / f"data-{secrets.token_hex(8)}")
        logger.warning("account %r can't enter %s, so its server lives in %s", account.name, folder, path)
    _make(path, 0o700)
    # In this order: another process that starts now gives it to its owner before it puts anything there.
    is_new = not any(path.iterdir())
    if path.lstat().st_uid == 0:
        if not is_new:
            raise EmbeddedError(f"{path} belongs to root and holds something else; choose another folder")
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return Home(folder, path, account)


def _elsewhere(folder: Path) -> Path | None:
    pointer = folder / f"{NAME}.elsewhere"
    if not pointer.exists() or pointer.lstat().st_uid != 0:
        return None
    path = Path(pointer.read_text().strip())
    return path if path.parent == SHARED else None


def _point_elsewhere(folder: Path, path: Path) -> Path:
    """Write down that the home is `path`, unless another process was first; return what counts."""
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
    """Make a directory, and whatever leads to it; False where it was there."""
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
