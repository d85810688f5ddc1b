"""Locks on files (flock), which the kernel releases when the process that has them ends."""

from __future__ import annotations

import os
from pathlib import Path

from oban_sa.errors import EmbeddedError

try:
    import fcntl
except ImportError as error:  # pragma: no cover - Windows
    raise ImportError(
        "oban_sa.embedded needs a Unix system; on this one install PostgreSQL and give its URL instead"
    ) from error


class SharedLock:
    """A lock on a file that many processes may have together, and that tells whether any process has it."""

    def __init__(self, path: Path, *, owner: int | None) -> None:
        """Open the file, or make it, for the account `owner` where that is given; raises EmbeddedError."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # Only a file we made changes its owner: an existing one may be a link, set as a trap for root.
            self._fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            if owner is not None:
                os.fchown(self._fd, owner, -1)
        except FileExistsError:
            try:
                self._fd = os.open(path, flags)
            except OSError as error:
                raise EmbeddedError(f"{path} can't be opened: {error.strerror}") from error

    def acquire(self) -> bool:
        """Take it together with others; return False where a process has it exclusively."""
        return self._try(fcntl.LOCK_SH)

    def is_free(self) -> bool:
        """Return whether no process has it; this releases it."""
        free = self._try(fcntl.LOCK_EX)
        self.release()
        return free

    def release(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Release it and close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_locked(fd: int) -> bool:
    """Return whether another process has an exclusive lock on the open file `fd`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
