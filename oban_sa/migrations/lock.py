"""One migration of a schema at a time: replicas and test workers start together, and all of them migrate.

Two advisory locks make it so. Both belong to a transaction, so that a commit, a rollback or the end of a connection
releases them, also behind a pooler; a lock of the session would pass to the client that the pooler gives the connection
next. The first is taken by the transaction that migrates. Indexes that are built CONCURRENTLY end that transaction, so
a transaction on a second connection takes the other lock and keeps it meanwhile.

Waiting for a lock must happen neither inside of a statement nor in a transaction with a snapshot: CREATE INDEX
CONCURRENTLY waits for all transactions that have a snapshot, so it would wait for those that wait for its migration.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

from alembic.operations import Operations
from sqlalchemy import Connection, Engine, text

_EVERY: Final = 0.05
"""Seconds between two tries to take the locks."""


@contextmanager
def migration_lock(operations: Operations, schema: str) -> Generator[Callable[[], None]]:
    """Wait for other migrations of the schema to end, and lock it against others until the transaction ends.

    Gives a function that takes the lock again, to be called after each step that may have ended the transaction.
    """
    migrating, building = _key(schema, "migrate"), _key(schema, "build")
    if operations.get_context().as_sql:
        # A script has one connection, so it takes one lock, and waits in a statement: it is at its beginning, where a
        # migration that builds indexes has committed what the script would wait for.
        operations.execute(text(f"SELECT pg_advisory_xact_lock({migrating})"))
        yield lambda: None
        return
    connection = operations.get_bind()
    _drop_snapshot(connection)
    with _second_connection(connection) as second:
        while not (_try(second, building) and _try(connection, migrating)):
            second.rollback()  # else two migrations could have one lock each, and wait for the other
            second.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": _EVERY})
            second.rollback()

        def lock_again() -> None:
            _try(connection, migrating)  # it is free: others take `building` first

        yield lock_again


@contextmanager
def _second_connection(connection: Connection) -> Generator[Connection]:
    """Open another connection to the same database, outside of the application's pool, which may have only one."""
    engine = connection.engine
    pool = engine.pool.recreate()
    try:
        with Engine(pool, engine.dialect, engine.url).connect() as second:
            yield second.execution_options(isolation_level="READ COMMITTED")
    finally:
        pool.dispose()


def _try(connection: Connection, key: int) -> bool:
    """Try to take the advisory lock `key` for the connection's transaction."""
    locked = bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}))
    _drop_snapshot(connection)
    return locked


def _drop_snapshot(connection: Connection) -> None:
    # The snapshot of a SELECT lives on until the next statement of its connection. SHOW takes none.
    connection.scalar(text("SHOW transaction_isolation"))


def _key(schema: str, what: str) -> int:
    """Return the number of a lock. Advisory locks of different databases are different ones in PostgreSQL."""
    return int.from_bytes(blake2b(f"oban_sa {what} {schema}".encode(), digest_size=8).digest(), signed=True)
