"""Statements that commit by themselves, run by asyncpg alone where nothing would see the difference.

SQLAlchemy's `Connection` costs several times as much as asyncpg does: for each statement it makes a context, a cursor
and a result, switches AUTOCOMMIT on and off, and begins and commits a transaction, which sends nothing. Without it the
pool stays, with its limits, events and checks. Where a `Connection` matters, it is made of what was checked out: for
errors, of which SQLAlchemy then makes its own and gives up connections that are broken or still busy.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, Self, TypeAlias, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import NullPool, PoolProxiedConnection, QueuePool

Rows: TypeAlias = Sequence[Sequence[object]]


class _Asyncpg(Protocol):
    """A connection of asyncpg."""

    async def fetch(self, query: str, *args: object) -> Rows: ...
    def is_in_transaction(self) -> bool: ...


class _Adapter(Protocol):
    """What SQLAlchemy makes a DBAPI's connection of it with."""

    def run_async(self, fn: Callable[[_Asyncpg], Awaitable[Rows]]) -> Rows: ...
    def _handle_exception(self, error: Exception) -> None: ...


class Opened:
    """A connection of a pool for one statement; leave its block to give it back."""

    __slots__ = ("_connection", "_pooled", "engine")

    def __init__(self, engine: Engine, pooled: PoolProxiedConnection, *, alone: bool) -> None:
        """`pooled` was checked out of the pool of `engine`; with `alone` asyncpg may run the statement by itself."""
        self.engine = engine
        self._pooled = pooled
        self._connection = None if alone else Connection(engine, pooled)

    def connection(self) -> Connection:
        """Return the `Connection`, which is made now if there was none."""
        if self._connection is None:
            self._connection = Connection(self.engine, self._pooled)
        return self._connection

    def run(self, text: str, parameters: tuple[object, ...] | dict[str, object]) -> Rows:
        """Run a statement as its driver takes it, commit, and return the rows."""
        # A listener to checkouts may have begun a transaction, which a Connection on AUTOCOMMIT rolls back.
        if self._connection is None and not cast(_Asyncpg, self._pooled.driver_connection).is_in_transaction():
            return self._fetch(text, tuple(parameters))
        connection = self.connection()
        rows = connection.exec_driver_sql(text, parameters).all()
        connection.commit()  # sends nothing where the statement has committed by itself
        return rows

    def _fetch(self, text: str, parameters: tuple[object, ...]) -> Rows:
        adapter = cast(_Adapter, self._pooled.dbapi_connection)
        try:
            try:
                return adapter.run_async(lambda asyncpg: asyncpg.fetch(text, *parameters))
            except Exception as error:
                # Raises the DBAPI's error of one of asyncpg, or the same.
                adapter._handle_exception(error)  # pyright: ignore[reportPrivateUsage]
                raise
        except BaseException as error:
            # After these the connection may be broken, or still busy with the statement of a task that was cancelled.
            known = (self.engine.dialect.loaded_dbapi.Error, TimeoutError)
            if isinstance(error, known) or not isinstance(error, Exception):
                handle = self.connection()._handle_dbapi_exception  # pyright: ignore[reportPrivateUsage]
                handle(error, text, parameters, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        (self._connection or self._pooled).close()


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

    def open(self) -> Opened:
        """Check a connection out of the pool."""
        # What the application does when a transaction begins, such as SET LOCAL, has to hold for the statement.
        if self._prepares and not self._events.begin:
            pooled = self._check_out(self._statements)
            if _is_prepared(pooled, self._statements.dialect.driver):
                return Opened(self._statements, pooled, alone=self._is_unwatched())
            # A statement without a name is prepared by one message and run by another, between which a pooler may
            # change the connection of the server; not so within a transaction.
            self._prepares = False
            pooled.close()
        return Opened(self._transactions, self._check_out(self._transactions), alone=False)

    def _check_out(self, engine: Engine) -> PoolProxiedConnection:
        try:
            return engine.raw_connection()
        except engine.dialect.loaded_dbapi.Error:
            # Nothing was sent yet. A Connection tries again, and makes what goes wrong an error of SQLAlchemy.
            return engine.connect().connection

    def _is_unwatched(self) -> bool:
        """Whether nothing listens to what asyncpg alone skips, nor logs it."""
        statements, events, of_dialect = self._statements, self._events, self._events_of_dialect
        return not (
            statements.dialect.driver != "asyncpg"
            # One connection that is checked out several times at once runs one statement at a time.
            or not isinstance(statements.pool, (QueuePool, NullPool))
            or statements.logger.isEnabledFor(logging.INFO)
            or events.engine_connect
            or events.before_cursor_execute
            or events.after_cursor_execute
            or events.commit
            or events.rollback
            or of_dialect.do_execute
            or of_dialect.handle_error
        )


def _is_prepared(pooled: PoolProxiedConnection, driver: str) -> bool:
    """Whether statements of a connection may be prepared outside of a transaction: it is not made for a pooler."""
    if driver != "asyncpg":
        return True  # others send a statement that is not prepared as one message
    # There is no public way to ask either for what it was configured with.
    name: Callable[[], str | None] | None = getattr(pooled.dbapi_connection, "_prepared_statement_name_func", None)
    config: object = getattr(pooled.driver_connection, "_config", None)
    return bool(getattr(config, "statement_cache_size", 1)) and (name is None or name() is None)
