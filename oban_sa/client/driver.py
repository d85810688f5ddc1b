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
from typing import Any, Final, NoReturn, Protocol, Self, TypeAlias, TypeGuard, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, PoolProxiedConnection, QueuePool
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

    __slots__ = ("_alone", "_connection", "_pooled", "engine")

    def __init__(self, engine: Engine, pooled: PoolProxiedConnection, *, alone: bool) -> None:
        """`pooled` was checked out of the pool of `engine`; with `alone` asyncpg may run the statement by itself."""
        self.engine = engine
        self._pooled = pooled
        self._alone = alone
        self._connection: Connection | None = None

    def connection(self) -> Connection:
        """Return the `Connection`, which is made now if there was none; to be called in a greenlet."""
        if self._connection is None:
            self._connection = Connection(self.engine, self._pooled)
        return self._connection

    async def run(self, text: str, parameters: tuple[object, ...] | dict[str, object]) -> Rows:
        """Run a statement as its driver takes it, commit, and return the rows."""
        if self._alone:
            asyncpg = cast(_Asyncpg, self._pooled.driver_connection)
            # A listener to checkouts may have begun a transaction, which a Connection on AUTOCOMMIT rolls back.
            if not asyncpg.is_in_transaction():
                try:
                    return await asyncpg.fetch(text, *parameters)
                except BaseException as error:
                    await greenlet_spawn(self._fail, error, text, tuple(parameters))
        return await greenlet_spawn(self._run, text, parameters)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._alone and self._connection is None and _keeps(self.engine.pool):
            self._pooled.close()
        else:
            await greenlet_spawn((self._connection or self._pooled).close)

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
        self._transactions = transactions
        self._events: Any = given.dispatch
        self._events_of_dialect: Any = given.dialect.dispatch
        self._prepares = True
        """Whether connections keep prepared statements, as they do unless the engine is made for a pooler."""

    async def open(self) -> Opened:
        """Check a connection out of the pool."""
        # What the application does when a transaction begins, such as SET LOCAL, has to hold for the statement.
        if self._prepares and not self._events.begin:
            engine = self._statements
            if (pooled := _at_once(engine)) is None:
                pooled = await greenlet_spawn(_check_out, engine)
            if _is_prepared(pooled, engine.dialect.driver):
                return Opened(engine, pooled, alone=self._is_unwatched())
            # A statement without a name is prepared by one message and run by another, between which a pooler may
            # change the connection of the server; not so within a transaction.
            self._prepares = False
            await greenlet_spawn(pooled.close)
        return await self.open_in_transaction()

    async def open_in_transaction(self) -> Opened:
        """Check a connection out of the pool on which a statement begins a transaction."""
        return Opened(self._transactions, await greenlet_spawn(_check_out, self._transactions), alone=False)

    def _is_unwatched(self) -> bool:
        """Whether nothing listens to what asyncpg alone skips, nor logs it."""
        statements, events, of_dialect = self._statements, self._events, self._events_of_dialect
        return not (
            statements.dialect.driver != "asyncpg"
            # One connection that is checked out several times at once runs one statement at a time.
            or not isinstance(statements.pool, (QueuePool, NullPool))
            or is_watched(events, of_dialect, statements.logger)
            or events.engine_connect
            or events.commit
            or events.rollback
        )


def _check_out(engine: Engine) -> PoolProxiedConnection:
    try:
        return engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error:
        # Nothing was sent yet. A Connection tries again, and makes what goes wrong an error of SQLAlchemy.
        return engine.connect().connection


def _at_once(engine: Engine) -> PoolProxiedConnection | None:
    """Check out a connection where that takes no waiting; None elsewhere, and where a pool keeps them otherwise."""
    pool = engine.pool
    if not _is_unheard(pool) or not pool.checkedin():
        return None
    try:
        if _pings(pool):
            return None
        waiting = _waiting(pool)
        record = waiting[0 if isinstance(waiting, deque) else -1]  # a list is that of a pool that uses the last first
        lives_for = _recycle(pool)
        if record._is_hard_or_soft_invalidated() or -1 < lives_for < time.time() - record.starttime + 1:
            return None
        return engine.raw_connection()
    except (AttributeError, IndexError):
        return None


# There is no public way to ask a pool whether its next connection can be had without waiting.
_waiting: Final = attrgetter("_pool._queue._queue")
_pings: Final = attrgetter("_pre_ping")
_recycle: Final = attrgetter("_recycle")


def _keeps(pool: object) -> bool:
    """Whether a pool takes a connection back, on which no transaction is open, without waiting."""
    return _is_unheard(pool) and pool.checkedin() < pool.size()  # a full one closes it


def _is_unheard(pool: object) -> TypeGuard[AsyncAdaptedQueuePool]:
    """Whether a pool keeps connections, and no program listens to them coming and going, which might use them."""
    if not isinstance(pool, AsyncAdaptedQueuePool):
        return False
    events: Any = pool.dispatch
    return not (events.checkout or events.checkin or events.reset)


def _is_prepared(pooled: PoolProxiedConnection, driver: str) -> bool:
    """Whether statements of a connection may be prepared outside of a transaction: it is not made for a pooler."""
    if driver != "asyncpg":
        return True  # others send a statement that is not prepared as one message
    # There is no public way to ask either for what it was configured with.
    name: Callable[[], str | None] | None = getattr(pooled.dbapi_connection, "_prepared_statement_name_func", None)
    config: object = getattr(pooled.driver_connection, "_config", None)
    return bool(getattr(config, "statement_cache_size", 1)) and (name is None or name() is None)
