"""Statements that commit by themselves, run by asyncpg alone where nothing would see the difference.

SQLAlchemy's `Connection` costs several times as much as asyncpg does: for each statement it makes a context, a cursor
and a result, switches AUTOCOMMIT on and off, and begins and commits a transaction, which sends nothing. Without it the
pool stays, with its limits, events and checks. Where a `Connection` matters, it is made of what was checked out: for
errors, of which SQLAlchemy then makes its own and gives up connections that are broken or still busy.

A greenlet, in which SQLAlchemy waits for what is asynchronous, costs as much as the statement does. So there is one
only for what may have to wait: a `Connection`, an error, and a pool that has to connect or to ask the server, or that
the program listens to.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final, NoReturn, Protocol, Self, TypeAlias, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ManagesConnection,
    NullPool,
    Pool,
    PoolProxiedConnection,
    QueuePool,
)
from sqlalchemy.util import greenlet_spawn

from oban_sa.outbox.rows import fail, is_watched

Rows: TypeAlias = Sequence[Sequence[object]]


class _Asyncpg(Protocol):
    """A connection of asyncpg."""

    async def fetch(self, query: str, *args: object) -> Rows: ...
    def is_in_transaction(self) -> bool: ...


class _Adapter(Protocol):
    """What SQLAlchemy makes a DBAPI's connection of it with."""

    def _handle_exception(self, error: Exception) -> None: ...


class Opened:
    """A connection of a pool for one statement; leave its block to give it back."""

    __slots__ = ("_asyncpg", "_connection", "_idle", "_pooled", "engine")

    def __init__(
        self,
        engine: Engine,
        pooled: PoolProxiedConnection,
        asyncpg: _Asyncpg | None = None,
        idle: _Idle | None = None,
    ) -> None:
        """`pooled` was checked out of the pool of `engine`.

        `asyncpg` is given where it may run the statement alone, and `idle` where the pool may take it back at once.
        """
        self.engine = engine
        self._pooled = pooled
        self._asyncpg = asyncpg
        self._idle = idle
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """Return the `Connection`, which is made now if there was none; to be called in a greenlet."""
        if self._connection is None:
            self._connection = Connection(self.engine, self._pooled)
        return self._connection

    async def run(self, text: str, parameters: tuple[object, ...] | dict[str, object]) -> Rows:
        """Run a statement as its driver takes it, commit, and return the rows."""
        asyncpg = self._asyncpg
        # A listener to checkouts may have begun a transaction, which a Connection on AUTOCOMMIT rolls back.
        if asyncpg is not None and not asyncpg.is_in_transaction():
            try:
                return await asyncpg.fetch(text, *parameters)
            except BaseException as error:
                await greenlet_spawn(self._fail, error, text, tuple(parameters))
        return await greenlet_spawn(self._run, text, parameters)

    def close_at_once(self) -> bool:
        """Give the connection back where that takes no waiting; False where it is still to be closed."""
        idle = self._idle
        if idle is None or self._asyncpg is None or self._connection is not None or not idle.has_room():
            return False
        self._pooled.close()
        return True

    async def close(self) -> None:
        """Give the connection back."""
        await greenlet_spawn((self._connection or self._pooled).close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self.close_at_once():
            await self.close()

    def _run(self, text: str, parameters: tuple[object, ...] | dict[str, object]) -> Rows:
        connection = self.connection()
        rows = connection.exec_driver_sql(text, parameters).all()
        connection.commit()  # sends nothing where the statement has committed by itself
        return rows

    def _fail(self, error: BaseException, text: str, parameters: tuple[object, ...]) -> NoReturn:
        """Raise what SQLAlchemy makes of an error of asyncpg, and give up the connection where it would."""
        adapter = cast(_Adapter, self._pooled.dbapi_connection)
        try:
            try:
                raise error
            except Exception as raised:
                # Raises the DBAPI's error of one of asyncpg, or the same.
                adapter._handle_exception(raised)  # pyright: ignore[reportPrivateUsage]
                raise
        except BaseException as raised:
            fail(self.connection(), raised, text, parameters)


class Driver:
    """Opens connections whose statements commit by themselves, or in a transaction where that is needed."""

    def __init__(self, given: Engine, statements: Engine, transactions: Engine) -> None:
        """`statements` is on AUTOCOMMIT, `transactions` is not; both were made of the `given` engine."""
        self._statements = statements
        self._is_asyncpg = statements.dialect.driver == "asyncpg"
        self._transactions = transactions
        self._pool: Pool | None = None
        self._known: _Idle | None = None
        self._events: Any = given.dispatch
        self._events_of_dialect: Any = given.dialect.dispatch
        self._prepares = True
        """Whether connections keep prepared statements, as they do unless the engine is made for a pooler."""

    def open_at_once(self) -> Opened | None:
        """Check a connection out where that takes no waiting and asyncpg may run a statement alone; None elsewhere."""
        if not self._is_asyncpg or not self._prepares or self._events.begin or (idle := self._idle()) is None:
            return None
        if (record := idle.next()) is None or (asyncpg := _prepared(record)) is None or not self._is_unwatched():
            return None
        return Opened(self._statements, idle.pool.connect(), asyncpg, idle)

    async def open(self) -> Opened:
        """Check a connection out of the pool."""
        # What the application does when a transaction begins, such as SET LOCAL, has to hold for the statement.
        if self._prepares and not self._events.begin:
            engine, idle = self._statements, self._idle()
            if idle is not None and idle.next() is not None:
                pooled = engine.raw_connection()
            else:
                pooled = await greenlet_spawn(_check_out, engine)
            if not self._is_asyncpg:
                return Opened(engine, pooled)  # other drivers send a statement that is not prepared as one message
            if (asyncpg := _prepared(pooled)) is not None:
                return Opened(engine, pooled, asyncpg if self._is_unwatched() else None, idle)
            # A statement without a name is prepared by one message and run by another, between which a pooler may
            # change the connection of the server; not so within a transaction.
            self._prepares = False
            await greenlet_spawn(pooled.close)
        return await self.open_in_transaction()

    async def open_in_transaction(self) -> Opened:
        """Check a connection out of the pool on which a statement begins a transaction."""
        return Opened(self._transactions, await greenlet_spawn(_check_out, self._transactions))

    def _idle(self) -> _Idle | None:
        """Return the connections of the pool, which `dispose` replaces; None for one that keeps none in a queue."""
        pool = self._statements.pool
        if pool is not self._pool:
            self._pool = pool
            self._known = _Idle(pool) if isinstance(pool, AsyncAdaptedQueuePool) else None
        return self._known

    def _is_unwatched(self) -> bool:
        """Whether nothing listens to what asyncpg alone skips, nor logs it."""
        statements, events, of_dialect = self._statements, self._events, self._events_of_dialect
        return not (
            is_watched(events, of_dialect, statements.logger)
            or events.engine_connect
            or events.commit
            or events.rollback
            # One connection that is checked out several times at once runs one statement at a time.
            or not isinstance(self._pool, (QueuePool, NullPool))
        )


def _check_out(engine: Engine) -> PoolProxiedConnection:
    try:
        return engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error:
        # Nothing was sent yet. A Connection tries again, and makes what goes wrong an error of SQLAlchemy.
        return engine.connect().connection


class _Idle:
    """The connections that a pool keeps, and whether it gives one out, or takes one back, without waiting."""

    __slots__ = ("_connections", "_events", "_first", "_lives_for", "_pings", "_size", "pool")

    def __init__(self, pool: AsyncAdaptedQueuePool) -> None:
        self.pool = pool
        self._events: Any = pool.dispatch
        self._size = pool.size()
        try:
            self._connections = _waiting(pool)
            self._lives_for: float = _recycle(pool)
            self._pings: bool = _pings(pool)
        except AttributeError:  # a version of SQLAlchemy that keeps them otherwise
            self._connections = None
        self._first = 0 if isinstance(self._connections, deque) else -1  # a list where the last is used first

    def next(self) -> Any:
        """Return what the pool gives out next; None where that takes waiting, or where it can't be known."""
        if not self._connections or self._pings or self._is_heard():
            return None
        record = self._connections[self._first]
        try:
            is_bad = record._is_hard_or_soft_invalidated()
            return None if is_bad or -1 < self._lives_for < time.time() - record.starttime + 1 else record
        except AttributeError:
            return None

    def has_room(self) -> bool:
        """Whether the pool keeps one more, on which no transaction is open; a full one closes it."""
        kept = self._connections
        return (self.pool.checkedin() if kept is None else len(kept)) < self._size and not self._is_heard()

    def _is_heard(self) -> bool:
        """Whether a program listens to connections coming and going, which might use them."""
        events = self._events
        return bool(events.checkout or events.checkin or events.reset)


# There is no public way to ask a pool whether its next connection can be had without waiting.
_waiting: Final = attrgetter("_pool._queue._queue")
_pings: Final = attrgetter("_pre_ping")
_recycle: Final = attrgetter("_recycle")


def _prepared(pooled: ManagesConnection) -> Any:
    """Return a connection of asyncpg's whose statements may be prepared outside of a transaction.

    None for one that is made for a pooler.
    """
    adapter, info = pooled.dbapi_connection, pooled.info
    known, asyncpg = info.get(_PREPARED, _UNKNOWN)
    if known is not adapter:
        asyncpg = pooled.driver_connection
        # There is no public way to ask either for what it was configured with.
        name: Callable[[], str | None] | None = getattr(adapter, "_prepared_statement_name_func", None)
        config: object = getattr(asyncpg, "_config", None)
        if not getattr(config, "statement_cache_size", 1) or (name is not None and name() is not None):
            return None
        info[_PREPARED] = adapter, asyncpg
    return asyncpg


_PREPARED: Final = "oban_sa.prepared"
"""Under this name the `info` of a pooled connection has what `_prepared` has found."""
_UNKNOWN: Final = (None, None)
