"""Every exception that asyncpg knows is either the database's absence, or in the way, or a statement's own mistake."""

from __future__ import annotations

import asyncio
import socket

import asyncpg
import pytest
from asyncpg.exceptions import _base
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError

from oban_sa.runner.database.errors import is_away, is_passing

MISTAKES: tuple[type[BaseException], ...] = (
    asyncpg.exceptions.PostgresWarning,
    asyncpg.exceptions.NoData,
    asyncpg.exceptions.PostgresLogMessage,
    _base.InterfaceWarning,
    _base.DataError,
    _base.ClientConfigurationError,
    _base.UnsupportedClientFeatureError,
    _base.UnsupportedServerFeatureError,
    asyncpg.exceptions.SQLStatementNotYetCompleteError,  # class 03
    asyncpg.exceptions.TriggeredActionError,
    asyncpg.exceptions.FeatureNotSupportedError,
    asyncpg.exceptions.InvalidTransactionInitiationError,
    asyncpg.exceptions.LocatorError,
    asyncpg.exceptions.InvalidGrantorError,
    asyncpg.exceptions.InvalidRoleSpecificationError,
    asyncpg.exceptions.DiagnosticsError,
    asyncpg.exceptions.CaseNotFoundError,
    asyncpg.exceptions.CardinalityViolationError,
    asyncpg.exceptions.DataError,  # class 22: what the server finds wrong with a value
    asyncpg.exceptions.IntegrityConstraintViolationError,
    asyncpg.exceptions.InvalidCursorStateError,
    asyncpg.exceptions.InvalidTransactionStateError,  # class 25, but for those about a connection
    asyncpg.exceptions.TriggeredDataChangeViolationError,
    asyncpg.exceptions.DependentPrivilegeDescriptorsStillExistError,
    asyncpg.exceptions.InvalidTransactionTerminationError,
    asyncpg.exceptions.SQLRoutineError,
    asyncpg.exceptions.InvalidCursorNameError,
    asyncpg.exceptions.ExternalRoutineError,
    asyncpg.exceptions.ExternalRoutineInvocationError,
    asyncpg.exceptions.SavepointError,
    asyncpg.exceptions.InvalidSchemaNameError,
    asyncpg.exceptions.SyntaxOrAccessError,  # class 42
    asyncpg.exceptions.WithCheckOptionViolationError,
    asyncpg.exceptions.ProgramLimitExceededError,
    asyncpg.exceptions.ObjectNotInPrerequisiteStateError,  # class 55, but for what a lock or a use explains
    asyncpg.exceptions.SnapshotTooOldError,
    asyncpg.exceptions.FDWError,
    asyncpg.exceptions.PLPGSQLError,
    asyncpg.exceptions.InvalidArgumentForXqueryError,
)
"""Repeating the statement brings the same again."""

ABSTRACT = {
    asyncpg.PostgresError,
    _base.PostgresMessage,
    _base.PostgresMessageMeta,
    _base.InterfaceMessage,
    _base.PostgresError,
    _base.FatalPostgresError,
    _base.UnknownPostgresError,
}


def walked(*roots: type[BaseException]) -> list[type[BaseException]]:
    """All classes below `roots`, and they themselves."""
    found = dict.fromkeys(roots)
    for root in roots:
        found.update(dict.fromkeys(walked(*root.__subclasses__())))
    return list(found)


KNOWN = [
    kind
    for kind in walked(
        asyncpg.PostgresError,
        _base.InterfaceError,
        _base.InternalClientError,
        _base.InterfaceWarning,
        _base.PostgresLogMessage,
    )
    if kind.__module__.startswith("asyncpg.") and kind not in ABSTRACT
]


def made(kind: type[BaseException]) -> BaseException:
    return kind.__new__(kind)


def test_none_of_asyncpgs_exceptions_is_forgotten() -> None:
    assert len(KNOWN) > 200
    nowhere = [kind.__name__ for kind in KNOWN if not is_passing(made(kind)) and not issubclass(kind, MISTAKES)]
    assert nowhere == []


def test_none_is_thought_of_in_two_ways() -> None:
    passing_within_a_class_of_mistakes = {
        "ReadOnlySQLTransactionError",
        "IdleInTransactionSessionTimeoutError",
        "TransactionTimeoutError",
        "LockNotAvailableError",
        "ObjectInUseError",
        "DuplicatePreparedStatementError",
        "InvalidCachedStatementError",
    }
    both = {kind.__name__ for kind in KNOWN if is_passing(made(kind)) and issubclass(kind, MISTAKES)}
    assert both <= passing_within_a_class_of_mistakes


@pytest.mark.parametrize(
    "kind",
    [
        ConnectionResetError,
        ConnectionRefusedError,
        TimeoutError,
        asyncio.TimeoutError,
        socket.gaierror,
        asyncpg.ConnectionDoesNotExistError,
        asyncpg.InterfaceError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.DiskFullError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.InvalidPasswordError,
        asyncpg.QueryCanceledError,
    ],
)
def test_the_database_is_away(kind: type[BaseException]) -> None:
    assert is_away(made(kind))
    assert is_passing(made(kind))


@pytest.mark.parametrize(
    "kind", [asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError]
)
def test_the_database_is_there_and_was_in_the_way(kind: type[BaseException]) -> None:
    assert not is_away(made(kind))
    assert is_passing(made(kind))


@pytest.mark.parametrize(
    "kind", [asyncpg.UndefinedTableError, asyncpg.DataError, asyncpg.UniqueViolationError, _base.DataError, ValueError]
)
def test_a_mistake_is_repeated_in_vain(kind: type[BaseException]) -> None:
    assert not is_passing(made(kind))


async def test_a_value_that_can_not_be_sent_is_a_mistake(engine) -> None:
    connection = await asyncpg.connect(engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
    with pytest.raises(asyncpg.DataError) as caught:
        await connection.fetch("SELECT $1::int", 2**40)
    assert not is_passing(caught.value)
    await connection.close()


def test_what_sqlalchemy_wraps_is_looked_into() -> None:
    adapted = Exception("adapted")
    adapted.__cause__ = made(asyncpg.AdminShutdownError)
    assert is_away(DBAPIError("SELECT 1", None, adapted))
    assert not is_away(DBAPIError("SELECT 1", None, Exception("other")))


def test_what_sqlalchemy_raises_when_it_can_not_connect_is_looked_into() -> None:
    adapted = AsyncAdapt_asyncpg_dbapi.Error("the database system is starting up")
    adapted.__cause__ = made(asyncpg.CannotConnectNowError)
    assert is_away(adapted)
