"""Which errors mean that the database is away, rather than that a statement is wrong."""

from __future__ import annotations

from typing import Final

import asyncpg
from asyncpg.exceptions._base import DataError as DriverDataError
from sqlalchemy.exc import DBAPIError

AWAY: tuple[type[BaseException], ...] = (
    OSError,  # ConnectionError, TimeoutError and failed look-ups of the host's name among them
    asyncpg.InterfaceError,  # the connection was closed under us; but see MISTAKEN
    asyncpg.InternalClientError,  # the protocol broke off in the middle of a message
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.exceptions.InsufficientResourcesError,  # class 53: too many connections, out of memory, disk full
    asyncpg.exceptions.OperatorInterventionError,  # class 57: shutting down, starting up, crashed, cancelled
    asyncpg.exceptions.PostgresSystemError,  # class 58: the server can't read its own files
    asyncpg.exceptions.InternalServerError,  # class XX
    asyncpg.exceptions.ConfigFileError,  # class F0
    asyncpg.exceptions.InvalidAuthorizationSpecificationError,  # class 28: a password being rotated comes right again
    asyncpg.exceptions.InvalidCatalogNameError,  # 3D000: the database is being restored
    asyncpg.exceptions.ReadOnlySQLTransactionError,  # 25006: we are talking to a standby after a fail-over
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    asyncpg.exceptions.TransactionTimeoutError,
)

PASSING: tuple[type[BaseException], ...] = (
    asyncpg.exceptions.TransactionRollbackError,  # class 40: serialization failures and deadlocks
    asyncpg.exceptions.ObjectInUseError,
    asyncpg.exceptions.LockNotAvailableError,
    asyncpg.exceptions.OutdatedSchemaCacheError,
    asyncpg.exceptions.InvalidCachedStatementError,
    asyncpg.exceptions.InvalidSQLStatementNameError,  # 26000: a pooler handed us another server connection
    asyncpg.exceptions.DuplicatePreparedStatementError,  # 42P05: likewise
)


POOLED: Final = (
    "a pooler in transaction mode that keeps no prepared statements; "
    "start with --pooler (OBAN_POOLER=1, pooler = true), "
    "give an engine of your own the connect arguments in docs/poolers.md, or set max_prepared_statements in PgBouncer"
)
"""What `is_misled` means, and what to do, for the person who set the database up."""


BESIDE: Final = 5
"""Connections that a runner opens beside one for each queue."""


def wanting(queues: int) -> str:
    """Say how many connections a runner with so many queues wants, and what to do where the server has no more."""
    return (
        f"this runner wants {queues + BESIDE}, one for each of its {queues} queues and {BESIDE} more, beside those of "
        "its jobs' sessions. Raise max_connections, give fewer queues larger limits, or serve some of them elsewhere"
    )


def is_misled(error: BaseException) -> bool:
    """Say whether a prepared statement was not where it was left: a pooler hands out other connections in between."""
    return isinstance(unwrapped(error), (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError))


MISTAKEN: tuple[type[BaseException], ...] = (
    DriverDataError,  # a value that the driver could not even send
    asyncpg.ClientConfigurationError,
    asyncpg.UnsupportedClientFeatureError,
    asyncpg.exceptions.UnsupportedServerFeatureError,
)
"""Errors of those families that come again however often the statement is repeated."""


REFUSALS: tuple[type[BaseException], ...] = (
    asyncpg.exceptions.IntegrityConstraintViolationError,  # class 23: unique indexes, checks, foreign keys
    asyncpg.exceptions.TriggeredDataChangeViolationError,
    asyncpg.exceptions.WithCheckOptionViolationError,
    asyncpg.exceptions.PLPGSQLError,  # class P0: what a trigger raises
)
"""Errors of rules that the application has set on the table, such as a unique index of its own."""


def is_refused(error: BaseException) -> bool:
    """Say whether a rule that the application has set on the table refused the row, as it always will."""
    return isinstance(unwrapped(error), REFUSALS)


def is_away(error: BaseException) -> bool:
    """Say whether the connection can't be used any more, and the same statement may work on another one later."""
    error = unwrapped(error)
    return isinstance(error, AWAY) and not isinstance(error, MISTAKEN)


def is_passing(error: BaseException) -> bool:
    """Say whether the same statement may work when it is tried again: the database was away, or others in the way."""
    error = unwrapped(error)
    return isinstance(error, AWAY + PASSING) and not isinstance(error, MISTAKEN)


def is_locked(error: BaseException) -> bool:
    """Say whether a session held a lock for longer than the statement waits for one; the database is there."""
    return isinstance(unwrapped(error), asyncpg.LockNotAvailableError)


def unwrapped(error: BaseException) -> BaseException:
    """Return the driver's own error below SQLAlchemy's."""
    while True:
        if isinstance(error, DBAPIError) and error.orig is not None:
            error = error.orig.__cause__ or error.orig
        elif type(error).__module__.startswith("sqlalchemy.") and error.__cause__ is not None:
            # SQLAlchemy's asyncpg adapter wraps once more, and by itself where a connection can't be made.
            error = error.__cause__
        else:
            return error
