"""What to tell a person where no connection can be made: which part of the URL, or of the server, is the cause."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

import asyncpg
from sqlalchemy import URL, make_url
from sqlalchemy.exc import DBAPIError

from oban_sa.describe.redaction import safe, unambiguous
from oban_sa.errors import RunnerError
from oban_sa.runner.database.engine import CONNECT_TIMEOUT
from oban_sa.runner.database.errors import POOLED, is_away, unwrapped
from oban_sa.runner.database.hosts import without_hosts

_BEHIND: Final = (asyncpg.PostgresError, asyncpg.TargetServerAttributeNotMatched)
"""Errors of the driver that SQLAlchemy's adapter raises its own from."""


def explained(error: BaseException, url: str, *, wanted: str = "") -> RunnerError | None:
    """Return the error to show for a failure to connect, or None where the failure is of another kind.

    `wanted` is a sentence about the connections that are wanted, for a server that has none left.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, Exception) and isinstance(cause.__cause__, _BEHIND):
        cause = cause.__cause__
    rest, several = without_hosts(url)
    parsed = make_url(rest)
    if not unambiguous(url):  # what passes for a host may be the end of a password
        parsed, several = URL.create("postgresql"), []
    where = f"{parsed.host or 'the local server'}:{parsed.port or 5432}"
    if several:
        where = ", ".join(f"{host}:{port}" for host, port in several)
    shown = safe(url)
    match cause:
        case asyncpg.InvalidPasswordError():
            what = f"the password of the user {parsed.username!r} is wrong, or missing from the URL"
        case asyncpg.InvalidAuthorizationSpecificationError():
            what = f"the server refused the user {parsed.username!r}: {cause}"
        case asyncpg.InsufficientPrivilegeError():
            return RunnerError(f"the user {parsed.username!r} is not allowed to do this in {shown}: {cause}")
        case asyncpg.InvalidCatalogNameError():
            what = (
                f"the server at {where} has no database {parsed.database!r}; create it with: createdb {parsed.database}"
            )
        case asyncpg.TooManyConnectionsError():
            what = f"the server at {where} has no connection left: {cause}{wanted and f'; {wanted}'}"
        case asyncpg.UntranslatableCharacterError():
            return RunnerError(
                f"the encoding of the database can't hold a name that was given (--node, --name): {cause}"
            )
        case asyncpg.CannotConnectNowError():
            what = f"the server at {where} takes no connections now: {cause}"
        case (
            asyncpg.CantChangeRuntimeParamError()
            | asyncpg.UndefinedObjectError()
            | asyncpg.InvalidParameterValueError()
        ):
            what = f"the server refused a parameter of the URL: {cause}"
        case asyncpg.ClientConfigurationError():
            what = f"the URL can't be used: {cause}"
        case ssl.SSLError():
            what = f"no encrypted connection to {where} could be made: {cause}"
        case asyncpg.InvalidSQLStatementNameError() | asyncpg.DuplicatePreparedStatementError():
            return RunnerError(f"{shown} leads to {POOLED}\n{cause}")
        case socket.gaierror():
            what = f"the host {where if several else parsed.host!r} is unknown"
        case ConnectionRefusedError():
            what = f"nothing listens at {where}; is PostgreSQL running there?"
        case asyncio.TimeoutError() | TimeoutError():
            what = f"{where} did not answer within {CONNECT_TIMEOUT:g} seconds"
        case FileNotFoundError():
            what = f"there is no socket of PostgreSQL at {where if several else parsed.host or 'the usual places'}"
        case asyncpg.TargetServerAttributeNotMatched():
            what = f"none of {where} is what target_session_attrs asks for"
        case ConnectionError() if "SSL" in str(cause):
            what = f"no encrypted connection to {where} could be made: {cause}"
        case OSError() | asyncpg.InterfaceError():
            what = f"{where} can't be reached: {cause}"
        case asyncpg.ConnectionDoesNotExistError():
            what = f"the server at {where} closed the connection while it was made"
        case _ if is_away(error):
            what = f"the connection to the server at {where} broke: {unwrapped(error)}"
        case _:
            return None
    return RunnerError(f"can't connect to {shown}\n{what[0].upper()}{what[1:]}")
