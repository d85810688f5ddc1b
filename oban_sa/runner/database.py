"""The runner's own connections: short statements, compiled once, on the driver that the engine brings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

import asyncpg
from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from oban_sa import clock, failures
from oban_sa.errors import RunnerError, articled
from oban_sa.runner.disconnects import POOLED, is_away, is_misled, unwrapped, wanting
from oban_sa.runner.prepared import Prepared, prepared
from oban_sa.runner.server_settings import WITHIN, on_connect, planning_anew
from oban_sa.runner.shortages import Shortages

logger = logging.getLogger("oban_sa.runner")

describe = failures.describe

CROWDED_EVERY: Final = 300.0
"""Seconds between two complaints that the server has no connection left."""

CLOSE_WITHIN: Final = 2.0
"""Seconds in which a connection must have been closed; then it's cut off."""

LATE: Final = 0.5
"""Seconds by which a time limit is noticed late where it's the event loop that stood still, and not the database."""


class Database:
    """Opens connections of the runner's own and keeps the story of whether the database is there.

    They come from a copy of the engine's pool, so the engine's connect arguments, creators and events all apply, while
    jobs that hold every connection of the user's pool can't keep outcomes from being written.
    """

    def __init__(self, engine: AsyncEngine, *, schema: str = "public", quiet: bool = False) -> None:
        """With `quiet` the story is kept but not told: somebody else of this runner tells it."""
        # Read by name: a URL or a sessionmaker is what a caller without a type checker may have given instead.
        if getattr(engine, "dialect", None) is None:
            raise RunnerError(
                f"a runner takes an AsyncEngine, not {articled(type(engine).__name__)}; "
                'make one with create_async_engine("postgresql+asyncpg://...")'
            )
        if engine.dialect.driver != "asyncpg":
            raise RunnerError(
                f"a runner works on asyncpg, and this engine speaks {engine.dialect.driver!r}; "
                'make it with create_async_engine("postgresql+asyncpg://...")'
            )
        self.engine = engine
        self.schema = schema
        self._pool = engine.pool.recreate()
        self.prepares = True
        """Whether its connections prepare statements under names, as they do unless a pooler was told of."""
        self._house: Line | None = None
        self._quiet = quiet
        self._away_since: float | None = None
        self._misled = False
        self._lines: WeakSet[Line] = WeakSet()
        self._crowded_at: float | None = None
        self._shortages = Shortages(self._level)
        self.heard_again: list[Callable[[], None]] = []
        """Called, on the loop, when the database answers again."""
        self.queues = 0
        """How many queues the runner serves, each on a connection of its own."""

    def prepare(self, make: Executable | Callable[..., Executable], *args: Any, **given: Any) -> Prepared:
        """A statement for this schema, or what `make` builds of these arguments, which have to be hashable."""
        return prepared(self.schema, make, *args, **given)

    @property
    def house(self) -> Line:
        """The connection of all parts that are in no hurry, so that a node costs few; closed by whoever ends."""
        if self._house is None:
            self._house = self.line()
        return self._house

    def line(self, *, keeps_plans: bool = False) -> Line:
        """A connection of its own, opened when first used; with `keeps_plans` for those who call `Line.plan_anew`."""
        line = Line(self, keeps_plans=keeps_plans)
        self._lines.add(line)
        return line

    def slow(self, after: float) -> list[Line]:
        """Return the lines that a statement has kept busy for so many seconds."""
        until = clock.monotonic() - after
        return [line for line in self._lines if line.busy_since is not None and line.busy_since < until]

    async def connect(self, *, keeps_plans: bool = False) -> asyncpg.Connection:
        """Open a connection that belongs to the caller alone."""
        connected: Any = await greenlet_spawn(self._pool.connect)
        raw: asyncpg.Connection = connected.driver_connection
        config: Any = raw._config  # type: ignore[attr-defined]
        self.prepares = config.statement_cache_size > 0
        connected.detach()
        try:
            for settings in on_connect(raw.get_server_pid(), keeps_plans=keeps_plans):
                await raw.execute(settings)
        except BaseException:
            raw.terminate()
            raise
        return raw

    @property
    def table(self) -> str:
        """The name of the jobs' table, a literal of SQL as `to_regclass` takes it."""
        table = self.named("oban_jobs").replace("'", "''")
        return f"'{table}'"

    def named(self, table: str) -> str:
        """Return the name of a table in this schema, as the value that `to_regclass` takes."""
        return f"{self.engine.dialect.identifier_preparer.quote(self.schema)}.{table}"

    def went_away(self, error: BaseException) -> None:
        """Say once that the database can't be reached, whoever noticed."""
        if isinstance(unwrapped(error), asyncpg.TooManyConnectionsError):
            # Others of this runner's connections may work meanwhile, which would say each time that it's back.
            self._crowded(error)
            return
        if self._shortages.began(error):
            return
        if self._away_since is None:
            self._away_since = clock.monotonic()
            logger.log(self._level, "the database is away (%s); work goes on once it is back", describe(error))

    def _crowded(self, error: BaseException) -> None:
        if self._crowded_at is None or clock.monotonic() - self._crowded_at > CROWDED_EVERY:
            self._crowded_at = clock.monotonic()
            logger.log(
                self._level,
                "the server has no connection left (%s); %s",
                failures.describe(error),
                wanting(self.queues),
            )

    def misled(self, error: BaseException) -> None:
        """Say once that prepared statements get lost on the way to the database."""
        if not self._misled:
            self._misled = True
            logger.error("the database is behind %s (%s)", POOLED, describe(error))

    def came_back(self) -> None:
        """Say once that the database answers again."""
        if self._away_since is not None:
            logger.log(self._level, "the database is back after %.1f s", clock.monotonic() - self._away_since)
            self._away_since = None
            self._heard_again()
        if self._shortages and self._shortages.over():
            self._heard_again()

    def _heard_again(self) -> None:
        for heard in self.heard_again:
            heard()

    @property
    def _level(self) -> int:
        return logging.DEBUG if self._quiet else logging.WARNING


class Line:
    """One long-lived connection, used by one caller at a time; a failure closes it, the next use opens another.

    Long-lived because the driver keeps its prepared statements per connection: without them a quarter of the speed
    is lost.
    """

    def __init__(self, database: Database, *, keeps_plans: bool = False) -> None:
        self._database = database
        self._keeps_plans = keeps_plans
        self._connection: asyncpg.Connection | None = None
        self.lock = asyncio.Lock()
        """Held by whoever uses the connection."""
        self.busy_since: float | None = None
        """When the use that is under way began, by the monotonic clock."""

    async def fetch(self, prepared: Prepared, *, within: float = WITHIN, **values: Any) -> list[asyncpg.Record]:
        """Run a statement in a transaction of its own.

        When it raises an error for which `is_away` holds, the statement may have been committed all the same.
        """
        text = prepared.text
        async with _Use(self, within) as connection:
            return await connection.fetch(text.sql, *text.values(values), timeout=within)

    async def plan_anew(self) -> None:
        """Have every statement planned anew when it is run next, for the table as it is by then.

        Planning a producer's statement costs a third of what running it does. A plan that is kept was made for the
        table as it was; it is never older than the last call of this, and none is kept while the table is small.
        """
        async with _Use(self, WITHIN) as connection:
            await connection.execute(planning_anew(self._database.table, connection.get_server_pid()), timeout=WITHIN)

    @asynccontextmanager
    async def transaction(self, *, within: float = WITHIN) -> AsyncGenerator[Transaction]:
        """Several statements, committed together."""
        async with _Use(self, within) as connection, asyncio.timeout(within):
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield Transaction(connection)
            except asyncio.CancelledError:
                # Time is up, or nobody waits any more: the connection is closed, and a silent server would not answer.
                raise
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    async def close(self) -> None:
        """Close the connection, without waiting long for a server that doesn't answer or for whoever uses it."""
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self.lock.acquire()
        except TimeoutError:
            # Its statement fails, and what the statement waited for may never have come.
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

    async def open(self) -> asyncpg.Connection:
        """Make the connection anew."""
        self._connection = connection = await self._connected()
        return connection

    def worked(self) -> None:
        """Take note that the database answered."""
        self._database.came_back()

    def failed(self, error: BaseException, *, heard: bool) -> None:
        """Close the connection unless what went wrong leaves it usable; `heard` unless this node stood still."""
        # A plain mistake in a statement leaves the connection usable; anything else might not.
        if not isinstance(error, asyncpg.PostgresError) or is_away(error) or is_misled(error):
            self._drop(cancelling=isinstance(error, TimeoutError | asyncio.CancelledError))
        if is_misled(error):
            self._database.misled(error)
        if is_away(error) and heard:
            self._database.went_away(error)

    async def _connected(self) -> asyncpg.Connection:
        try:
            async with asyncio.timeout(WITHIN):
                return await self._database.connect(keeps_plans=self._keeps_plans)
        except Exception as error:
            if is_away(error) or is_misled(error):
                raise
            # Whatever keeps a connection from being made, the statement that waits for it is not to blame.
            raise ConnectionError(f"no connection could be made: {describe(error)}") from error

    def _drop(self, *, cancelling: bool = False) -> None:
        """Let go of the connection; where it's `cancelling`, once the server was told to cancel the statement."""
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

    A class and no generator, which takes more Python: this stands between each notification and its job.
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


@dataclass(frozen=True, slots=True)
class Transaction:
    """Statements in one open transaction."""

    connection: asyncpg.Connection

    def savepoint(self) -> Any:
        """A context: where the statements in it fail, the transaction is as it was before them."""
        return self.connection.transaction()

    async def fetch(self, prepared: Prepared, **values: Any) -> list[asyncpg.Record]:
        """Run a statement in this transaction."""
        text = prepared.text
        return await self.connection.fetch(text.sql, *text.values(values))
