"""From the URL that a user writes to what asyncpg gets."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import InvalidOption
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import connect_arguments, create_engine
from oban_sa.runner.database.errors import wanting
from oban_sa.runner.database.failures import explained
from tests.support import eventually, plain_url


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2"]
)
async def test_every_spelling_of_a_url_becomes_asyncpg(database_url: str, scheme: str) -> None:
    engine = create_engine(plain_url(database_url).replace("postgresql://", f"{scheme}://"))
    assert engine.url.drivername == "postgresql+asyncpg"
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=disable",
        "sslmode=prefer",
        "ssl=disable",
        "connect_timeout=5&keepalives=1&keepalives_idle=30",
        "channel_binding=prefer&gssencmode=prefer&target_session_attrs=any",
        "prepared_statement_cache_size=0&statement_cache_size=0",
        "options=-c%20search_path%3Dpg_catalog",
        "command_timeout=5.5",
    ],
)
async def test_parameters_of_libpq_and_of_asyncpg_both_work(database_url: str, query: str) -> None:
    url = f"{plain_url(database_url)}?{query}"
    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
        if "search_path" in query:
            assert await connection.scalar(text("SHOW search_path")) == "pg_catalog"
    await engine.dispose()
    direct = await asyncpg.connect(**connect_arguments(url))
    assert await direct.fetchval("SELECT 1") == 1
    await direct.close()


@pytest.mark.parametrize(
    ("query", "shown"),
    [("", "oban_sa host.1"), ("?application_name=mine", "mine"), ("?sslmode=prefer", "oban_sa host.1")],
)
async def test_the_application_is_named_after_the_node(database_url: str, query: str, shown: str) -> None:
    engine = create_engine(plain_url(database_url) + query, application_name="oban_sa host.1")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW application_name")) == shown
    await engine.dispose()


async def test_a_connection_that_the_server_closed_meanwhile_costs_nobody_an_error(database_url: str) -> None:
    engine = create_engine(plain_url(database_url))
    async with engine.connect() as connection:
        pid = await connection.scalar(text("SELECT pg_backend_pid()"))
        idle = (await connection.get_raw_connection()).driver_connection
    other = await asyncpg.connect(plain_url(database_url))
    await other.execute("SELECT pg_terminate_backend($1)", pid)
    await other.close()
    await eventually(idle.is_closed)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT pg_backend_pid()")) != pid
    await engine.dispose()


async def test_an_encryption_that_the_server_lacks_is_explained(database_url: str) -> None:
    url = f"{plain_url(database_url)}?sslmode=require"
    engine = create_engine(url)
    try:
        async with engine.connect():
            pytest.skip("this server speaks TLS")
    except (DBAPIError, OSError) as error:
        known = explained(error, url)
        assert known is not None
        assert "No encrypted connection to " in str(known)
    finally:
        await engine.dispose()


def test_certificates_reach_asyncpg() -> None:
    arguments = connect_arguments("postgresql://h/d?sslmode=verify-full&sslrootcert=/ca.pem&host=/run/pg")
    assert arguments["dsn"] == "postgresql://?sslmode=verify-full&sslrootcert=%2Fca.pem"
    assert arguments["host"] == "/run/pg"
    assert arguments["database"] == "d"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h/d?channel_binding=require", "asyncpg has no channel_binding=require; leave it out of the URL"),
        ("postgresql://h/d?connect_timeout=soon", "the parameter connect_timeout of the URL is 'soon', which is not a"),
        ("sqlite:///x", "'sqlite:///x' is not the URL of a PostgreSQL database, which oban_sa needs"),
        ("postgresq://h/d", "which oban_sa needs; did you mean 'postgresql'?"),
        ("postgresql+oracle://h/d", "names an unknown driver 'oracle'; write postgresql://"),
        ("postgresql://u:p w@h:x/d", "'postgresql://u:***@h:x/d' is not a URL; write for example postgresql://"),
    ],
)
def test_a_url_that_can_not_work_is_refused(url: str, message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        create_engine(url)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.InvalidPasswordError("x"), "The password of the user 'ada' is wrong, or missing from the URL"),
        (asyncpg.InvalidAuthorizationSpecificationError("no entry"), "The server refused the user 'ada': no entry"),
        (asyncpg.TooManyConnectionsError("too many clients"), "has no connection left: too many clients"),
        (asyncpg.CannotConnectNowError("starting up"), "takes no connections now: starting up"),
        (TimeoutError(), "Db:5432 did not answer within 10 seconds"),
        (asyncpg.ConnectionDoesNotExistError("x"), "closed the connection while it was made"),
        (OSError(113, "No route to host"), "Db:5432 can't be reached: [Errno 113] No route to host"),
        # The server dies while it is asked whether its tables are there.
        (asyncpg.InternalClientError("cannot switch to state 12"), "broke: cannot switch to state 12"),
        (asyncpg.AdminShutdownError("terminating connection"), "broke: terminating connection"),
    ],
)
def test_what_connecting_raises_is_explained_without_the_password(error: BaseException, words: str) -> None:
    known = explained(error, "postgresql://ada:hush@db/shop")
    assert known is not None
    assert str(known).startswith("can't connect to postgresql://ada:***@db/shop\n")
    assert words in str(known)


def test_what_is_not_about_connecting_is_not_explained_away() -> None:
    unknown: list[Any] = [ValueError("x"), asyncpg.UndefinedTableError("x")]
    assert [explained(error, "postgresql://h/d") for error in unknown] == [None, None]


async def test_a_server_without_connections_left_is_told_how_many_the_runner_wants(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(engine)
    database.availability.queues = 100
    for _ in range(3):
        database.availability.went_away(asyncpg.TooManyConnectionsError("sorry, too many clients already"))
        database.availability.came_back()
    [said] = caplog.messages
    assert "sorry, too many clients already" in said
    assert "this runner wants 105, one for each of its 100 queues and 5 more" in said
    known = explained(
        asyncpg.TooManyConnectionsError("too many clients"),
        "postgresql://h/d",
        wanted=wanting(database.availability.queues),
    )
    assert "has no connection left: too many clients; this runner wants 105" in str(known)
