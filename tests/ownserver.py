"""A PostgreSQL that a test may stop, kill and start again, and a folder with data to begin with."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from oban_sa import embedded
from tests.databases import migrate
from tests.support import sync_url


def copy_made(run_folder: Path, folder: Path) -> None:
    """Copy to `folder` that of a server which was made, migrated and stopped.

    The first process of a run that asks makes it: `initdb` and the migration take longer than most tests.
    """
    made = run_folder / "made"
    with (run_folder / "made.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            new = run_folder / "made.new"
            with embedded.start(new) as server:
                migrate(sync_url(server.url, "asyncpg"))
            new.rename(made)
    home = made / "postgresql"
    if not home.is_dir():  # its account can't enter the folder of the run
        with embedded.start(folder) as server:
            migrate(sync_url(server.url, "asyncpg"))
        return
    # With the owners, since root lends the server an account.
    subprocess.run(["cp", "-a", made, folder], check=True)
    # Copies that ran on one port would be in each other's way.
    (folder / "postgresql" / "port").unlink()
    (folder / "postgresql" / "log").unlink()


class OwnServer:
    """A private durable server on one port for its whole life; every method returns when its effect is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: embedded.Attachment | None = None
        self._port: int | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            self._running.close()

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._running is not None, "this server is stopped; call start() first"
        return self._running.server.pid

    def start(self) -> str:
        """Start it where it was left, on the same port, and return its URL."""
        assert self._running is None, "this server already runs"
        running = embedded.start(self.folder, port=self._port)
        server = running.open()
        self._running, self._port = running, server.port
        self.url = sync_url(server.url, "asyncpg")
        return self.url

    def stop(self) -> None:
        """Stop it as an administrator does (fast): sessions are ended and everything is on disk."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill it as a power cut does (SIGKILL): nothing more is written, the next start recovers from the log."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        os.kill(self.pid, number)
        assert self._running is not None
        self._running.close()
        self._running = None
