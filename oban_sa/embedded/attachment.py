"""One user of a folder's server: it starts the server or attaches to it, and leaves."""

# ruff: noqa: S603 - programs are started here by absolute paths and without a shell

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from oban_sa.embedded import supervisor
from oban_sa.embedded.binaries import Binaries, choose
from oban_sa.embedded.home import Home, home_in, readable
from oban_sa.embedded.lock import SharedLock
from oban_sa.embedded.server import Server
from oban_sa.errors import EmbeddedError

PORTS = range(15_000, 30_000)
"""Ports below those that systems give to outgoing connections, on which a client that retries may connect to itself."""
POLL_EVERY = 0.02
"""Seconds between two checks whether the server has started or stopped."""


def start(
    folder: str | os.PathLike[str] = ".oban",
    *,
    port: int | None = None,
    fast: bool = False,
    settings: Mapping[str, str] | None = None,
    binaries: Binaries | None = None,
    within: float = 60.0,
) -> Attachment:
    """Return a context manager, sync and async, that starts the server of `folder` or attaches to it; gives a `Server`.

    Commits survive a crash unless `fast`, which is for tests, whose data may be lost. Without a `port` the folder keeps
    the one it got first. `settings` are PostgreSQL's own and count where this call starts the server. `binaries` says
    which PostgreSQL to use. Entering it raises EmbeddedError where no server is ready after `within` seconds.
    """
    return Attachment(
        Path(folder), port=port, fast=fast, settings=dict(settings or {}), binaries=binaries, within=within
    )


class Attachment:
    """A user of a folder's server, from `open` to `close`; a `with` block does both."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None,
        fast: bool,
        settings: dict[str, str],
        binaries: Binaries | None,
        within: float,
    ) -> None:
        # Resolved now: the current directory may change before the server is opened.
        self.folder = folder.expanduser().resolve()
        self._port = port
        self._fast = fast
        self._settings = settings
        self._binaries = binaries
        self._within = within
        self._cancelled = threading.Event()
        self._attached: tuple[Home, SharedLock, Server] | None = None

    @property
    def server(self) -> Server:
        if self._attached is None:
            raise EmbeddedError("this server is not open; use it inside `with embedded.start(...)`")
        return self._attached[2]

    def open(self) -> Server:
        """Start the server or attach to it, and return once it accepts connections; raises EmbeddedError."""
        if self._attached is not None:
            raise EmbeddedError("this server is open already; every user needs an `embedded.start(...)` of its own")
        home = home_in(self.folder)
        lock = home.open_lock()
        try:
            server = self._reach(home, lock)
        except BaseException:
            lock.close()
            raise
        self._attached = home, lock, server
        return server

    def close(self) -> None:
        """Detach; where this was the last user, return once the server has stopped."""
        if self._attached is None:
            return
        home, lock, _ = self._attached
        self._attached = None
        # Closed, not unlocked: a child that was forked meanwhile shares the lock and is still a user.
        lock.close()
        _wait_for_stop(home)

    def __enter__(self) -> Server:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Server:
        opening = asyncio.create_task(asyncio.to_thread(self.open))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # A thread can't be cancelled. Without the flag it would open the server later, and nothing would close it.
            self._cancelled.set()
            await asyncio.wait([opening])
            if opening.exception() is None:
                await asyncio.to_thread(self.close)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _reach(self, home: Home, lock: SharedLock) -> Server:
        """Return the server once it accepts connections; start it where it doesn't run, again after a taken port."""
        deadline = time.monotonic() + self._within
        started = False
        while True:
            if self._cancelled.is_set():
                raise EmbeddedError("opening this server was cancelled")
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the server in {home.path} was not ready within {self._within:g} s; see {home.log}"
                )
            # While the last server is stopping its supervisor has the exclusive lock.
            if lock.acquire():
                server = home.running()
                if server is not None and _answers(server.port):
                    return self._checked(server)
                if server is None and not home.is_supervised():
                    # It may have become ready between the two checks.
                    if (server := home.running()) is not None:
                        continue
                    if started:
                        self._raise_failure(home)
                    started = self._supervise(home)
            time.sleep(POLL_EVERY)

    def _checked(self, server: Server) -> Server:
        if self._port not in (None, server.port):
            raise EmbeddedError(
                f"the server in {self.folder} already runs on port {server.port}, not {self._port}; "
                "leave `port` out to use it where it is"
            )
        if server.fast and not self._fast:
            raise EmbeddedError(
                f"the server in {self.folder} was started with fast=True, so it may lose what is committed; "
                "say fast=True here too if that does not matter, or wait until its users have left"
            )
        return server

    def _raise_failure(self, home: Home) -> None:
        """Raise why our supervisor failed, unless another try with another port may help."""
        kind, message = home.failure()
        if kind != "port":
            raise EmbeddedError(f"no server could be started in {home.path}: {message}")
        if self._port is not None:
            raise EmbeddedError(f"port {self._port} is taken; leave `port` out to get a free one")

    def _supervise(self, home: Home) -> bool:
        """Start a supervisor; return False where another process has started one."""
        binaries = self._binaries or choose(home.data)
        account = home.account
        plan: supervisor.Plan = {
            "home": str(home.path),
            "account": {"uid": account.uid, "gid": account.gid, "groups": account.groups} if account else None,
            "bin": str(readable(binaries, home).folder),
            "version": binaries.version,
            "port": self._port or _free_port(home.last_port()),
            "fast": self._fast,
            "settings": self._settings,
        }
        begun = subprocess.run(
            [sys.executable, "-I", "-S", supervisor.__file__],
            input=json.dumps(plan),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if begun.returncode not in (0, 3):
            raise EmbeddedError(f"the supervisor of {home.path} could not be started:\n{begun.stderr.strip()}")
        return begun.returncode == 0


def _wait_for_stop(home: Home) -> None:
    """Wait until the server has stopped, or other users were seen."""
    deadline = time.monotonic() + supervisor.PATIENCE
    lock = home.open_lock()
    seen_others = 0
    try:
        while seen_others < 3 and time.monotonic() < deadline and home.is_supervised():
            if not lock.is_free() and lock.acquire():
                # Three times, since another process that checks at this moment has the lock for an instant.
                seen_others += 1
                lock.release()
            else:
                seen_others = 0
            time.sleep(POLL_EVERY)
    finally:
        lock.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _free_port(wanted: int | None) -> int:
    """Return a free port, `wanted` where that is free; raises EmbeddedError."""
    for port in (wanted, *(secrets.choice(PORTS) for _ in range(100))):
        if port is None:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EmbeddedError(f"no free port was found between {PORTS.start} and {PORTS.stop}; give one with `port`")
