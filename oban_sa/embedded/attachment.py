"""One user's hold on the server of a folder."""

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
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from oban_sa.embedded import supervisor
from oban_sa.embedded.binaries import Binaries, choose
from oban_sa.embedded.failure import EmbeddedError
from oban_sa.embedded.home import Home, home_in, readable
from oban_sa.embedded.lock import SharedLock
from oban_sa.embedded.server import Server

PORTS = range(15_000, 30_000)
"""Below what systems give to outgoing connections: a client that retries on a port of that kind may reach itself."""
LOOK_EVERY = 0.02


def start(
    folder: str | os.PathLike[str] = ".oban",
    *,
    port: int | None = None,
    fast: bool = False,
    settings: Mapping[str, str] | None = None,
    binaries: Binaries | None = None,
    within: float = 60.0,
) -> Attachment:
    """A context manager, sync and async, that gives the `Server` of `folder`: started, or attached to where it runs.

    Commits survive a crash unless `fast`, which is for tests: they don't look at them afterwards. Without a `port`
    the folder keeps the one it got at first. `settings` are PostgreSQL's own and count for whoever starts the server.
    `binaries` says which PostgreSQL to use. EmbeddedError where there is no server after `within` seconds.
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
        # As seen from where the caller stands now: it may stand elsewhere later.
        self.folder = folder.expanduser().resolve()
        self._port = port
        self._fast = fast
        self._settings = settings
        self._binaries = binaries
        self._within = within
        self._given_up = threading.Event()
        self._hold: tuple[Home, SharedLock, Server] | None = None

    @property
    def server(self) -> Server:
        if self._hold is None:
            raise EmbeddedError("this server is not open; use it inside `with embedded.start(...)`")
        return self._hold[2]

    def open(self) -> Server:
        """Start the server or attach to it; returns once it takes connections."""
        if self._hold is not None:
            raise EmbeddedError("this server is open already; every user needs an `embedded.start(...)` of its own")
        home = home_in(self.folder)
        lock = SharedLock(home.users, owner=home.account.uid if home.account else None)
        try:
            server = self._reach(home, lock)
        except BaseException:
            lock.close()
            raise
        self._hold = home, lock, server
        return server

    def close(self) -> None:
        """Leave; where nobody else is left, return once the server has stopped."""
        if self._hold is None:
            return
        home, lock, _ = self._hold
        self._hold = None
        # Closed, not unlocked: a child that was forked meanwhile shares the lock and is still a user.
        lock.close()
        _see_it_stop(home)

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
            # The thread can't be cancelled, only asked; were it left alone it would open what nobody closes.
            self._given_up.set()
            await asyncio.wait([opening])
            if opening.exception() is None:
                await asyncio.to_thread(self.close)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _reach(self, home: Home, lock: SharedLock) -> Server:
        """Find the server, starting it as often as that makes sense."""
        deadline = time.monotonic() + self._within
        started = False
        while True:
            if self._given_up.is_set():
                raise EmbeddedError("nobody waits for this server any more")
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"the server in {home.path} was not ready within {self._within:g} s; see {home.log}"
                )
            # Not to be had while the last server is stopping.
            if lock.hold():
                server = home.running()
                if server is not None and _answers(server.port):
                    return self._checked(server)
                if server is None and not home.is_supervised():
                    # It may have become ready between the two questions.
                    if (server := home.running()) is not None:
                        continue
                    if started:
                        self._explain(home)
                    started = self._supervise(home)
            time.sleep(LOOK_EVERY)

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

    def _explain(self, home: Home) -> None:
        """Raise what our supervisor failed of, unless another try with another port would help."""
        kind, message = home.failure()
        if kind != "port":
            raise EmbeddedError(f"no server could be started in {home.path}: {message}")
        if self._port is not None:
            raise EmbeddedError(f"port {self._port} is taken; leave `port` out to get a free one")

    def _supervise(self, home: Home) -> bool:
        """Start a supervisor; False where another process was faster."""
        binaries = self._binaries or choose(home.data)
        plan: dict[str, Any] = {
            "home": str(home.path),
            "account": {**asdict(home.account), "groups": home.account.groups} if home.account else None,
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


def _see_it_stop(home: Home) -> None:
    """Wait until the server is gone, or until it is clear that others still use it."""
    deadline = time.monotonic() + supervisor.PATIENCE
    lock = SharedLock(home.users, owner=home.account.uid if home.account else None)
    seen_others = 0
    try:
        while seen_others < 3 and time.monotonic() < deadline and home.is_supervised():
            if not lock.is_free() and lock.hold():
                # More than once, since another who leaves at this moment looks like a user for an instant.
                seen_others += 1
                lock.let_go()
            else:
                seen_others = 0
            time.sleep(LOOK_EVERY)
    finally:
        lock.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _free_port(wanted: int | None) -> int:
    """A port nobody listens on: the wanted one where possible."""
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
