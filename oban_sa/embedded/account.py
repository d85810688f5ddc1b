"""The account that root's server runs under, since PostgreSQL refuses to run as root."""

# ruff: noqa: S603 - programs are started here by absolute paths and without a shell

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

from oban_sa.errors import EmbeddedError


@dataclass(frozen=True, slots=True)
class Account:
    """An existing account without privileges."""

    name: str
    uid: int
    gid: int

    @property
    def groups(self) -> list[int]:
        return os.getgrouplist(self.name, self.gid)

    def can(self, *command: str) -> bool:
        """Return whether a command runs and succeeds under this account."""
        try:
            run = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
                check=False,
            )
        except OSError:
            return False
        return run.returncode == 0

    def can_run(self, binaries: Path) -> bool:
        return all(self.can(str(binaries / name), "--version") for name in ("postgres", "initdb"))

    def can_enter(self, folder: Path) -> bool:
        return self.can("/bin/sh", "-c", 'cd "$1"', "sh", str(folder))


def choose_account(home: Path, folder: Path) -> Account:
    """Return the account that root's server in `home` runs under.

    It is the owner of `home` or `folder` where they exist, else the caller of sudo, else `postgres`, else `nobody`.
    Raises EmbeddedError where none of these exists.
    """
    caller = os.environ.get("SUDO_UID", "")
    choices: list[int | str] = [path.stat().st_uid for path in (home, folder) if path.exists()]
    choices += [int(caller)] if caller.isdecimal() else []
    for wanted in (*choices, "postgres", "nobody"):
        try:
            entry = pwd.getpwnam(wanted) if isinstance(wanted, str) else pwd.getpwuid(wanted)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and this system has neither an account 'postgres' nor 'nobody' to run it "
        "under; make one (useradd --system postgres), or run this as an ordinary user"
    )
