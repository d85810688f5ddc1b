"""Locks on files, which the kernel lets go of when their holder ends."""

from __future__ import annotations

import os
from pathlib import Path

from oban_sa.embedded.failure import EmbeddedError

try:
    import fcntl
except ImportError as error:  # pragma: no cover - Windows
    raise ImportError(
        "oban_sa.embedded needs a Unix system; on this one install PostgreSQL and give its URL instead"
    ) from error


class SharedLock:
    """A file that many may hold at once, and that tells whether others hold it too."""

    def __init__(self, path: Path, *, owner: int | None) -> None:
        """Open the file, and make it where it is missing; `owner` is who gets a new one, where that isn't us."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            # Only a file we made is given away: an existing one could be a link that its owner has put there for root.
            self._fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            if owner is not None:
                os.fchown(self._fd, owner, -1)
        except FileExistsError:
            try:
                self._fd = os.open(path, flags)
            except OSError as error:
                raise EmbeddedError(f"{path} can't be opened: {error.strerror}") from error

    def hold(self) -> bool:
        """Hold it together with others; False where somebody has it alone."""
        return self._try(fcntl.LOCK_SH)

    def is_free(self) -> bool:
        """Whether nobody at all holds it; asking lets go of it."""
        free = self._try(fcntl.LOCK_EX)
        self.let_go()
        return free

    def let_go(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of it for good."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def is_held(fd: int) -> bool:
    """Whether another holds a lock on the open file `fd`."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
