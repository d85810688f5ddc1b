"""From the URL that a user writes to an engine, or a connection, on asyncpg."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import asyncpg
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa.describe.redaction import safe
from oban_sa.errors import InvalidOption, nearest
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.hosts import connect as connect_to_one
from oban_sa.runner.database.hosts import without_hosts

CONNECT_TIMEOUT: Final = 10.0
"""Seconds in which a connection must have been made, unless the URL says otherwise."""

UNPREPARED: Final[Mapping[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    # The statement without a name is parsed anew whenever it runs. One with a name would stay behind on a connection of
    # the server that the pooler gives to another client next.
    "prepared_statement_name_func": lambda: "",
}
"""Connect arguments for a pooler in transaction mode that knows nothing of prepared statements."""

_DRIVERS: Final = frozenset({"asyncpg", "psycopg", "psycopg_async", "psycopg2", "pg8000", "psycopg2cffi"})
_NUMBERS: Final = {
    "statement_cache_size": int,
    "max_cached_statement_lifetime": int,
    "max_cacheable_statement_size": int,
    "prepared_statement_cache_size": int,
    "command_timeout": float,
    "timeout": float,
}
# Parameters of libpq that asyncpg does not know, and that change nothing when they are left out.
_HINTS: Final = frozenset(
    {
        "client_encoding",
        "fallback_application_name",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "tcp_user_timeout",
        "sslcompression",
        "sslsni",
    }
)
_ONLY_LIBPQ: Final = {"channel_binding": "require", "gssencmode": "require"}


def create_engine(
    url: str, *, application_name: str = "oban_sa", connections: int = 14, pooler: bool = False
) -> AsyncEngine:
    """Return an engine on asyncpg for any PostgreSQL URL, libpq's parameters (`?sslmode=require`) included.

    It opens at most `connections`, and keeps 24 of them at most. With `pooler`, or `?statement_cache_size=0` in the
    URL, no prepared statement outlives a transaction. An `application_name` in the URL wins. Raises InvalidOption for
    what is not the URL of a PostgreSQL database, without showing its password.
    """
    parsed, arguments = _translated(url, application_name)
    if pooler or arguments.get("statement_cache_size") == 0:
        arguments |= UNPREPARED
    kept = max(1, min(connections, 24))
    engine = create_async_engine(
        parsed, connect_args=arguments, pool_size=kept, max_overflow=max(0, connections - kept), pool_use_lifo=True
    )
    event.listen(engine.sync_engine, "checkout", _still_open)
    return engine


def _still_open(connection: Any, _record: object, _proxy: object) -> None:
    """Replace a connection that the server closed while it lay in the pool, before it costs a job an attempt."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server closed this connection")


async def connect(url: str, *, application_name: str = "oban_sa") -> asyncpg.Connection:
    """Return a connection of asyncpg's to the database of this URL."""
    arguments = connect_arguments(url, application_name=application_name)
    made: Any = arguments.pop("async_creator_fn", asyncpg.connect)
    return await made(**arguments)  # type: ignore[no-any-return]


async def dispose(engine: AsyncEngine, *, within: float = 2.0) -> None:
    """Close an engine's connections, for so many seconds at most: a silent server never answers."""
    closing = asyncio.create_task(engine.dispose())
    await asyncio.wait([closing], timeout=within)
    if not closing.done():
        pool = type(engine.pool)
        logging.getLogger(f"{pool.__module__}.{pool.__name__}").addFilter(_is_no_failure)
    await cancelled(closing)


def _is_no_failure(record: logging.LogRecord) -> bool:
    """Keep a pool from logging, as an error with a traceback, that closing a connection was cut short."""
    return not record.exc_info


def connect_arguments(url: str, *, application_name: str = "oban_sa") -> dict[str, Any]:
    """Return the arguments with which `asyncpg.connect` reaches the database of this URL.

    Of a URL with several hosts they have an `async_creator_fn`, which takes the others: `connect` calls it.
    """
    parsed, arguments = _translated(url, application_name)
    dialect: Any = parsed.get_dialect()()
    found: dict[str, Any] = dialect.create_connect_args(parsed)[1]
    if "prepared_statement_cache_size" in arguments:  # SQLAlchemy's own, unknown to asyncpg
        arguments["statement_cache_size"] = arguments.pop("prepared_statement_cache_size")
    return {**found, **arguments}


def _translated(url: str, application_name: str) -> tuple[URL, dict[str, Any]]:
    plain, several = without_hosts(url)
    try:
        parsed = make_url(plain)
    except (ArgumentError, ValueError):  # neither says which part is wrong, and a port that is none shows as ValueError
        raise InvalidOption(
            f"{safe(url)!r} is not a URL; write for example postgresql://user:password@host:5432/name, with the "
            "special characters of a password percent-encoded"
        ) from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend not in ("postgresql", "postgres"):
        raise InvalidOption(
            f"{safe(url)!r} is not the URL of a PostgreSQL database, which oban_sa needs"
            f"{nearest(backend, ['postgresql', 'postgres'])}"
        )
    if driver and driver not in _DRIVERS:
        raise InvalidOption(f"{safe(url)!r} names an unknown driver {driver!r}; write postgresql://")
    arguments: dict[str, Any] = {"timeout": CONNECT_TIMEOUT}
    rest: dict[str, str] = {}
    ports: dict[str, Any] = {}
    for key, value in parsed.query.items():
        last = value if isinstance(value, str) else value[-1]
        if key == "port":
            ports[key] = value
        elif key in _NUMBERS or key == "connect_timeout":
            name = "timeout" if key == "connect_timeout" else key
            arguments[name] = _number(key, last)
        elif key == "ssl":
            rest["sslmode"] = {"true": "require", "false": "disable"}.get(last.lower(), last)
        elif key in _ONLY_LIBPQ:
            if last == _ONLY_LIBPQ[key]:
                raise InvalidOption(f"{safe(url)}: asyncpg has no {key}={last}; leave it out of the URL")
        elif key not in _HINTS:
            rest[key] = last
    if "application_name" not in rest:
        # PostgreSQL cuts it at 63 bytes by itself, with a notice.
        arguments["server_settings"] = {"application_name": application_name.encode()[:63].decode(errors="ignore")}
    if rest:
        # asyncpg reads libpq's parameters, such as certificates, from a DSN only; arguments beside it win.
        arguments["dsn"] = f"postgresql://?{urlencode(rest)}"
    if len(several) == 1:
        arguments["host"], arguments["port"] = several[0]
    elif several:
        arguments["async_creator_fn"] = partial(connect_to_one, several)
    return parsed.set(drivername="postgresql+asyncpg", query=ports), arguments


def _number(key: str, value: str) -> float:
    try:
        return int(value) if _NUMBERS.get(key) is int else float(value)
    except ValueError:
        raise InvalidOption(f"the parameter {key} of the URL is {value!r}, which is not a number") from None
