"""One connection of the runner's: statements in transactions of their own, or several in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Final, NamedTuple

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from oban_sa.describe.exceptions import describe
from oban_sa.runner.database.availability import Availability
from oban_sa.runner.database.errors import is_away, is_misled
from oban_sa.runner.database.prepared import Prepared, Text
from oban_sa.runner.database.server_settings import ENOUGH, WITHIN, planning_anew
from oban_sa.schedule import clock

LARGE: Final = 15 * 1024
"""Characters of a statement above which asyncpg does not keep it prepared by itself, unless it was told otherwise."""

CLOSE_WITHIN: Final = 2.0
"""Seconds in which a connection must have been closed; then it's cut off."""

LATE: Final = 0.5
"""Seconds by which a time limit is noticed late where it's the event loop that stood still, and not the database."""


class Line:
    """One long-lived connection, used by one caller at a time; a failure closes it, the next use opens another.

    Long-lived because the driver keeps its prepared statements per connection: without them fetching is a quarter
    slower.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        availability: Availability,
        *,
        table: str,
        enough: int = ENOUGH,
        prepares: Callable[[], bool] = lambda: True,
    ) -> None:
        """`connect` opens a connection, and `prepares` tells whether statements are prepared on it under names.

        Plans are kept while a table is `enough` bytes large; `table` is its name, a literal of SQL.
        """
        self._connect = connect
        self._availability = availability
        self._table = table
        self._enough = enough
        self._prepares = prepares
        self._large: dict[str, PreparedStatement[asyncpg.Record]] = {}
        self._connection: asyncpg.Connection | None = None
        self._planned: asyncpg.Connection | None = None
        self.lock = asyncio.Lock()
        """Locked while the connection is used."""
        self.busy_since: float | None = None
        """When the use that is under way began, by the monotonic clock; None while there is none."""

    async def fetch(self, prepared: Prepared, within: float = WITHIN, /, **values: object) -> list[asyncpg.Record]:
        """Run a statement in a transaction of its own.

        When it raises an error for which `is_away` holds, the statement may have been committed all the same.
        """
        async with _Use(self, within) as connection:
            return await self.run(connection, prepared.text, values, timeout=within)

    async def run(
        self, connection: asyncpg.Connection, text: Text, values: dict[str, object], *, timeout: float | None = None
    ) -> list[asyncpg.Record]:
        """Run a statement on the line's connection, which its caller is using."""
        given = in_order(text, values)
        if len(text.sql) <= LARGE or not self._prepares():
            return await connection.fetch(text.sql, *given, timeout=timeout)
        # The driver would have it parsed and planned each time, which for the largest takes longer than running it.
        if (statement := self._large.get(text.sql)) is None:
            statement = self._large[text.sql] = await connection.prepare(text.sql, timeout=timeout)
        return await statement.fetch(*given, timeout=timeout)

    async def plan_anew(self) -> None:
        """Drop the plans of all statements; each is planned when it is run next, for the table as it is by then.

        Planning a producer's statement takes a third of the time of running it, so plans are kept. None is older than
        the last call of this, and none is kept while the table is small.
        """
        async with _Use(self, WITHIN) as connection:
            planning = planning_anew(self._table, connection.get_server_pid(), enough=self._enough)
            await connection.execute(planning, timeout=WITHIN)
            self._planned = connection

    @property
    def is_planned(self) -> bool:
        """Whether `plan_anew` was called since the connection was opened; before that no plan is kept."""
        return self.connection is not None and self.connection is self._planned

    @asynccontextmanager
    async def transaction(self, *, within: float = WITHIN) -> AsyncGenerator[Transaction]:
        """Run several statements in one transaction; it is committed at the end, and rolled back by an error."""
        async with _Use(self, within) as connection, asyncio.timeout(within):
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield Transaction(connection, self)
            except asyncio.CancelledError:
                # Time is up, or the caller was cancelled: the connection is closed. A silent server would not answer.
                raise
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    async def close(self) -> None:
        """Close the connection, and wait for its user and for the server for `CLOSE_WITHIN` seconds each at most."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.lock.acquire()
        except TimeoutError:
            # The statement under way fails; what it waits for may never come.
            self._drop()
            return
        try:
            connection, self._connection = self._connection, None
            if connection is not None:
                await _closed(connection)
        finally:
            self.lock.release()

    @property
    def pid(self) -> int | None:
        """The server's process behind the connection; behind a pooler it means nothing."""
        connection = self.connection
        return None if connection is None else int(connection.get_server_pid())

    @property
    def connection(self) -> asyncpg.Connection | None:
        """The connection, where there is one that works."""
        connection = self._connection
        return None if connection is None or connection.is_closed() else connection

    async def ready(self) -> None:
        """Open the connection where there is none, before the first statement wants it; raises what `fetch` raises."""
        async with _Use(self, WITHIN):
            pass

    def take(self, connection: asyncpg.Connection) -> None:
        """Use a connection that was opened elsewhere."""
        self._connection = connection
        self._large.clear()

    async def open(self) -> asyncpg.Connection:
        """Open the connection, or another one where it was closed."""
        self.take(connection := await self._connected())
        return connection

    def worked(self) -> None:
        """Note that the database answered."""
        if self._availability.troubled:
            self._availability.came_back()

    def failed(self, error: BaseException, *, heard: bool) -> None:
        """Close the connection unless what went wrong leaves it usable; `heard` unless this node stood still."""
        # A plain mistake in a statement leaves the connection usable; anything else might not.
        if not isinstance(error, asyncpg.PostgresError) or is_away(error) or is_misled(error):
            self._drop(cancelling=isinstance(error, TimeoutError | asyncio.CancelledError))
        if is_misled(error):
            self._availability.misled(error)
        if is_away(error) and heard:
            self._availability.went_away(error)

    async def _connected(self) -> asyncpg.Connection:
        try:
            async with asyncio.timeout(WITHIN):
                return await self._connect()
        except Exception as error:
            if is_away(error) or is_misled(error):
                raise
            # No error of connecting may pass for one of the statement that waits for the connection.
            raise ConnectionError(f"no connection could be made: {describe(error)}") from error

    def _drop(self, *, cancelling: bool = False) -> None:
        """Close the connection; if `cancelling`, in a task that tells the server to cancel the statement first."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if cancelling and not connection.is_closed():
            closing = asyncio.create_task(_closed(connection))
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)
        else:
            connection.terminate()


_closing: Final[set[asyncio.Task[None]]] = set()


async def _closed(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=CLOSE_WITHIN)
    except (Exception, asyncio.CancelledError):
        connection.terminate()


class _Use:
    """One caller's use of a line.

    A class and no generator, which is slower: each fetch comes through here.
    """

    __slots__ = ("_began", "_line", "_within")

    def __init__(self, line: Line, within: float) -> None:
        """`within` is the time limit of what is done."""
        self._line = line
        self._within = within
        self._began = 0.0

    async def __aenter__(self) -> asyncpg.Connection:
        await self._line.lock.acquire()
        try:
            connection = self._line.connection or await self._line.open()
        except BaseException as error:
            self._line.failed(error, heard=True)
            self._line.lock.release()
            raise
        self._began = self._line.busy_since = clock.monotonic()
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.busy_since = None
        try:
            if error is None:
                self._line.worked()
                return
            heard = not isinstance(error, TimeoutError) or clock.monotonic() - self._began <= self._within + LATE
            self._line.failed(error, heard=heard)
            if not heard:
                raise _NotHeard from error
        finally:
            self._line.lock.release()


class _NotHeard(TimeoutError):
    """The event loop stood still, so that this node did not hear in time what the database answered."""


class Transaction(NamedTuple):
    """One open transaction, on a line or on a connection of a session."""

    connection: asyncpg.Connection
    line: Line | None = None

    def savepoint(self) -> AbstractAsyncContextManager[object]:
        """Return an `async with` block: an error in it rolls back the statements in it, and no others."""
        return self.connection.transaction()

    async def fetch(self, prepared: Prepared, **values: object) -> list[asyncpg.Record]:
        """Run a statement in this transaction."""
        text = prepared.text
        if self.line is not None:
            return await self.line.run(self.connection, text, values)
        return await self.connection.fetch(text.sql, *in_order(text, values))


def in_order(text: Text, given: dict[str, object]) -> list[object]:
    """Bring named values into the statement's order."""
    return [given[name] if name in given else text.constants[name] for name in text.names]
