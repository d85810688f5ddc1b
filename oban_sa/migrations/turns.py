"""One migration of a schema at a time: replicas and test workers start together, and all of them migrate.

Two advisory locks see to it, both of a transaction, so that a commit, a rollback or the end of a connection releases
them, also behind a pooler; a lock of the session would be left to whichever client a pooler gives that connection next.
One belongs to the transaction that migrates, and ends with it. That transaction is left where indexes are built
CONCURRENTLY, so a transaction on a second connection holds the other lock meanwhile.

Nobody waits for either inside of a statement or of a transaction with a snapshot: CREATE INDEX CONCURRENTLY waits for
the transactions of all who have one, and so whoever builds would wait for those who wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

from alembic.operations import Operations
from sqlalchemy import Connection, Engine, text

_EVERY: Final = 0.05
"""Seconds between two looks whether it is our turn."""


@contextmanager
def turn(operations: Operations, schema: str) -> Generator[Callable[[], None]]:
    """Wait until nobody else migrates the schema, and keep others waiting until the transaction has ended.

    Gives a function that has to be called after what may have left the transaction.
    """
    mine, building = _key(schema, "migrate"), _key(schema, "build")
    if operations.get_context().as_sql:
        # Whoever runs the script has one connection. Nobody waits here for one that builds: it has committed before.
        operations.execute(text(f"SELECT pg_advisory_xact_lock({mine})"))
        yield lambda: None
        return
    connection = operations.get_bind()
    _let_go(connection)
    with _second(connection) as second:
        while not (_try(second, building) and _try(connection, mine)):
            second.rollback()  # else two could hold one lock each, and wait for the other
            second.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": _EVERY})
            second.rollback()

        def again() -> None:
            _try(connection, mine)  # nobody can have it, for it takes the other first

        yield again


@contextmanager
def _second(connection: Connection) -> Generator[Connection]:
    """Give another connection to the same database, beside the application's pool, which may have but one."""
    engine = connection.engine
    pool = engine.pool.recreate()
    try:
        with Engine(pool, engine.dialect, engine.url).connect() as second:
            yield second.execution_options(isolation_level="READ COMMITTED")
    finally:
        pool.dispose()


def _try(connection: Connection, key: int) -> bool:
    ours = bool(connection.scalar(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": key}))
    _let_go(connection)
    return ours


def _let_go(connection: Connection) -> None:
    # A SELECT that has been read keeps its snapshot until the next statement of its connection. This one takes none.
    connection.scalar(text("SHOW transaction_isolation"))


def _key(schema: str, what: str) -> int:
    """Return the number of a lock; PostgreSQL itself keeps those of different databases apart."""
    return int.from_bytes(blake2b(f"oban_sa {what} {schema}".encode(), digest_size=8).digest(), signed=True)
