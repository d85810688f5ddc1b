"""LISTEN on a connection of its own, and hand each notification to its listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias
from uuid import uuid4

import asyncpg

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.connection import LATE
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import connect
from oban_sa.schedule import clock
from oban_sa.sql.notify import NOTIFY
from oban_sa.wire import messages

logger = logging.getLogger("oban_sa.runner")

Listener: TypeAlias = Callable[[dict[str, object]], None]

PROBE_WITHIN = 5.0
"""Seconds in which a connection that listens must have heard what it said itself."""

START_WITHIN = 2.0
"""Seconds that a starting runner waits until it listens."""

PROBE_EVERY = 30.0
"""Seconds between probes, which also find connections that died without a word."""


class Notifier:
    """Hands messages to listeners, by channel, and reconnects with backoff until it is stopped.

    It probes its connection with a notification of its own: a pooler in transaction mode accepts LISTEN and delivers
    nothing. Then it warns once, and the runner finds jobs by polling.
    """

    def __init__(
        self,
        database: Database,
        listeners: Mapping[str, Listener],
        *,
        source: telemetry.Source,
        listen_url: str | None = None,
    ) -> None:
        self._database = database
        self._listeners = dict(listeners)
        self._source = source
        self._listen_url = listen_url
        self._probe_channel = messages.channel(source.schema, "probe")
        self._probe = database.prepare(NOTIFY)
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._tried = asyncio.Event()
        self._nonce = ""
        self._odd: set[str] = set()
        self._deaf = False
        self._task: asyncio.Task[None] | None = None
        self.proven = False
        """Whether the last probe was heard."""

    @property
    def deaf(self) -> bool:
        """Whether the connection hears nothing, as behind a pooler in transaction mode: jobs are found by polling."""
        return self._deaf

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._run(), name="oban_sa notifier")

    async def listens(self) -> None:
        """Wait until it does, for `START_WITHIN` seconds at most.

        A database that can't be listened to never keeps a runner from starting.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_WITHIN):
                await self._tried.wait()

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            await cancelled(self._task)

    async def _run(self) -> None:
        failures = 0
        while True:
            connection: asyncpg.Connection | None = None
            try:
                connection = await self._connected()
                self._tried.set()
                while await self._probed(connection):
                    failures = 0
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_EVERY):
                            await self._wake.wait()
                    self._wake.clear()
                    if connection.is_closed():
                        raise ConnectionResetError("the listening connection was closed")
                # It hears nothing: try another connection, but not often, since the database is set up like this.
                failures, rest = 0, PROBE_EVERY
            except Exception as error:
                failures += 1
                rest = backoff.retrying(failures)
                if failures == 1:
                    self._database.availability.went_away(error)
                telemetry.emit(telemetry.NotifierDisconnected(runner=self._source, error=error, retry_in=rest))
            finally:
                self._tried.set()
                self.proven = False
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(rest)

    async def _connected(self) -> asyncpg.Connection:
        async with asyncio.timeout(PROBE_WITHIN * 2):
            connection = await (
                self._database.connect() if self._listen_url is None else self._connected_to(self._listen_url)
            )
        self._wake.clear()
        connection.add_termination_listener(lambda _: self._wake.set())
        channels = [messages.channel(self._source.schema, short) for short in self._listeners]
        try:
            async with asyncio.timeout(PROBE_WITHIN * 2):
                for channel in (*channels, self._probe_channel):
                    await connection.add_listener(channel, self._receive)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _connected_to(self, url: str) -> asyncpg.Connection:
        return await connect(url, application_name=f"oban_sa {self._source.node}")

    async def _probed(self, connection: asyncpg.Connection) -> bool:
        self._nonce = uuid4().hex
        self._heard.clear()
        # A connection that died without a word is not deaf.
        await connection.execute("SELECT 1", timeout=PROBE_WITHIN)
        # From another connection: a notification sent on this one comes back with its answer, even through a pooler.
        await self._database.shared.fetch(
            self._probe, within=PROBE_WITHIN, channel=self._probe_channel, payloads=f'["{self._nonce}"]'
        )
        if not await self._hears():
            if not self._deaf:
                self._deaf = True
                if self._listen_url is None:
                    logger.warning(
                        "this connection hears no notifications, as happens behind a pooler in transaction mode; "
                        "new jobs are found by polling. Give a direct URL with --listen-url to hear of them at once"
                    )
                else:
                    logger.warning(
                        "the connection to --listen-url hears nothing of what is said in the database; new jobs are "
                        "found by polling. Does it lead to the very same database, and not through a pooler?"
                    )
                telemetry.emit(telemetry.NotifierDeaf(runner=self._source))
            return False
        if not self.proven:
            self.proven = True
            self._deaf = False
            self._database.availability.came_back()
            telemetry.emit(telemetry.NotifierConnected(runner=self._source))
            # What was sent before it listened is lost: look at every queue once.
            self._tell("insert", {"queue": "*"})
        return True

    async def _hears(self) -> bool:
        while True:
            began = clock.monotonic()
            try:
                async with asyncio.timeout(PROBE_WITHIN):
                    await self._heard.wait()
            except TimeoutError:
                if clock.monotonic() - began > PROBE_WITHIN + LATE:
                    continue  # the event loop stood still, and the answer may be there
                return False
            return True

    def _receive(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        text = payload if isinstance(payload, str) else ""
        if channel == self._probe_channel:
            if text == self._nonce:
                self._heard.set()
            return
        short = channel.rpartition(".oban_")[2]
        message = messages.decode(text)
        if message is None:
            self._ignore(short, "is no JSON object", text)
        else:
            self._tell(short, message)

    def _tell(self, short: str, message: dict[str, object]) -> None:
        listener = self._listeners.get(short)
        if listener is None:
            return
        try:
            listener(message)
        except Exception as error:
            self._ignore(short, f"makes no sense ({describe(error)})", str(message))

    def _ignore(self, short: str, what: str, text: str) -> None:
        kind = f"{short} {what}"
        if kind not in self._odd and len(self._odd) < 100:
            self._odd.add(kind)
            logger.warning("a message on %r %s and was ignored: %.200s", short, what, ascii(text))
