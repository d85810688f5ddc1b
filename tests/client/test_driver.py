"""`await oban.enqueue(job)` on asyncpg alone: when it may, and that errors and connections are as with SQLAlchemy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, StaticPool, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Job, Oban
from oban_sa.client import driver
from tests.support import eventually


@pytest.fixture
def by_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that SQLAlchemy has run from their text."""
    ran: list[str] = []
    run = Connection.exec_driver_sql

    def note(connection: Connection, statement: str, *rest: Any) -> Any:
        if "oban_jobs" in statement:
            ran.append(statement)
        return run(connection, statement, *rest)

    monkeypatch.setattr(Connection, "exec_driver_sql", note)
    return ran


@pytest.fixture(params=["asyncpg", "SQLAlchemy"])
async def either(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose jobs are enqueued in each of the two ways."""
    made = create_async_engine(database_url, pool_size=2, max_overflow=0, pool_timeout=5)
    if request.param == "SQLAlchemy":
        event.listen(made.sync_engine, "commit", ignore)
    yield made
    await made.dispose()


def ignore(*_: Any, **__: Any) -> None: ...


async def count(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM oban_jobs"))).scalar_one())


async def test_asyncpg_runs_the_statement_alone(engine: AsyncEngine, by_sqlalchemy: list[str]) -> None:
    oban = Oban(engine)
    made = [await oban.enqueue(Job("w")) for _ in range(2)]
    assert made[0].id < made[1].id
    assert by_sqlalchemy == []


EVENTS = ["before_cursor_execute", "after_cursor_execute", "engine_connect", "begin", "commit", "rollback"]


@pytest.mark.parametrize("name", [*EVENTS, "do_execute", "handle_error"])
@pytest.mark.parametrize("of_all", [False, True], ids=["an engine", "all engines"])
async def test_who_listens_is_told_as_ever(
    engine: AsyncEngine, by_sqlalchemy: list[str], name: str, of_all: bool
) -> None:
    oban = Oban(engine)
    await oban.enqueue(Job("w"))
    target = Engine if of_all else engine.sync_engine
    event.listen(target, name, ignore)
    try:
        await oban.enqueue(Job("w"))
    finally:
        event.remove(target, name, ignore)
    assert len(by_sqlalchemy) == 1
    await oban.enqueue(Job("w"))
    assert len(by_sqlalchemy) == 1


async def test_statements_are_logged_where_the_program_asks_for_it(
    engine: AsyncEngine, by_sqlalchemy: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        await Oban(engine).enqueue(Job("w"))
    assert any("oban_jobs" in record.message for record in caplog.records)


async def test_a_connection_that_others_may_be_using_is_left_to_sqlalchemy(
    database_url: str, by_sqlalchemy: list[str]
) -> None:
    engine = create_async_engine(database_url, poolclass=StaticPool)
    await Oban(engine).enqueue(Job("w"))
    assert len(by_sqlalchemy) == 1
    await engine.dispose()


async def test_a_transaction_that_a_checkout_has_begun_loses_no_job(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "checkout")
    def set_up(connection: Any, *_: Any) -> None:
        connection.cursor().execute("SET statement_timeout = 5000")

    await Oban(engine).enqueue(Job("w"))
    assert await count(engine) == 1


@pytest.fixture
def greenlets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The functions that greenlets were made for."""
    made: list[str] = []
    spawn = driver.greenlet_spawn

    async def note(fn: Any, *given: Any) -> Any:
        made.append(fn.__name__)
        return await spawn(fn, *given)

    monkeypatch.setattr(driver, "greenlet_spawn", note)
    return made


async def test_a_connection_at_rest_takes_no_greenlet(engine: AsyncEngine, greenlets: list[str]) -> None:
    oban = Oban(engine)
    await oban.enqueue(Job("w"))
    assert greenlets == ["_check_out"]  # it had to connect
    for _ in range(3):
        await oban.enqueue(Job("w"))
    assert greenlets == ["_check_out"]
    assert await count(engine) == 4


@pytest.mark.parametrize("name", ["checkout", "checkin", "reset"])
async def test_who_listens_to_a_pool_may_use_its_connections(
    engine: AsyncEngine, greenlets: list[str], name: str
) -> None:
    asked: list[str] = []

    def ask(connection: Any, *_: Any) -> None:
        asked.append(name)
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        connection.rollback()

    oban = Oban(engine)
    await oban.enqueue(Job("w"))
    event.listen(engine.sync_engine, name, ask)
    greenlets.clear()
    await oban.enqueue(Job("w"))
    event.remove(engine.sync_engine, name, ask)
    assert asked == [name]
    assert greenlets == ["_check_out", "close"]
    assert await count(engine) == 2


@pytest.mark.parametrize("lifo", [False, True])
@pytest.mark.parametrize("made_bad", ["invalid", "softly", "all", "old"])
async def test_a_connection_that_is_to_be_replaced_is_replaced_in_a_greenlet(
    database_url: str, greenlets: list[str], made_bad: str, lifo: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recycle = 3600 if made_bad == "old" else -1
    engine = create_async_engine(database_url, pool_size=2, pool_use_lifo=lifo, pool_recycle=recycle)
    oban = Oban(engine)
    async with engine.connect() as last, engine.connect() as first:  # as they come back to the pool
        raw = await (last if lifo else first).get_raw_connection()
        if made_bad == "all":
            engine.pool._invalidate(raw)  # pyright: ignore[reportPrivateUsage] - as after an error that tells that the server is gone
        elif made_bad == "softly":
            raw.invalidate(soft=True)
        elif made_bad == "invalid":  # these come back at once
            for each in (last, first):
                (await each.get_raw_connection()).invalidate()
    greenlets.clear()
    if made_bad == "old":
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 4000)
    await oban.enqueue(Job("w"))
    assert greenlets == ["_check_out"]
    await oban.enqueue(Job("w"))
    assert len(greenlets) <= 2
    await oban.enqueue(Job("w"))
    await oban.enqueue(Job("w"))
    assert len(greenlets) <= 2, greenlets
    assert await count(engine) == 4
    await engine.dispose()


async def test_a_pool_that_asks_the_server_does_so_in_a_greenlet(database_url: str, greenlets: list[str]) -> None:
    engine = create_async_engine(database_url, pool_pre_ping=True)
    connected: list[Any] = []
    event.listen(engine.sync_engine, "connect", lambda *given: connected.append(given))
    for _ in range(2):
        await Oban(engine).enqueue(Job("w"))
    assert greenlets == ["_check_out"] * 2
    assert len(connected) == 1
    await end_connections(database_url, OTHERS)
    await Oban(engine).enqueue(Job("w"))  # the pool has noticed
    await engine.dispose()


async def test_a_version_of_sqlalchemy_that_keeps_its_connections_otherwise_takes_greenlets(
    engine: AsyncEngine, greenlets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await Oban(engine).enqueue(Job("w"))
    for name in ("_waiting", "_pings", "_recycle"):
        with monkeypatch.context() as patched:
            patched.setattr(driver, name, attrgetter("unheard_of"))
            greenlets.clear()
            await Oban(engine).enqueue(Job("w"))
        assert greenlets == ["_check_out"]


async def test_a_full_pool_closes_what_comes_back(database_url: str, greenlets: list[str]) -> None:
    engine = create_async_engine(database_url, pool_size=1, max_overflow=1)
    async with engine.connect():
        pass
    locking = create_async_engine(database_url)
    async with locking.connect() as other:
        await other.execute(text("LOCK oban_jobs"))
        waiting = asyncio.create_task(Oban(engine).enqueue(Job("w")))

        async def waits() -> None:
            asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'oban_jobs'::regclass"
            assert (await other.execute(text(asked))).scalar_one() == 1

        await eventually(waits)
        async with engine.connect():  # one more than the pool keeps, which it has by now
            pass
    await waiting
    assert greenlets == ["close"]
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await locking.dispose()
    await engine.dispose()


def told(error: BaseException | None) -> list[Any]:
    """All that programs can see of an error and its causes, without places in the program."""
    found: list[Any] = []
    while error is not None:
        found += [type(error), str(error), getattr(error, "sqlstate", None), getattr(error, "pgcode", None)]
        if isinstance(error, DBAPIError):
            found += [error.statement, error.params, error.hide_parameters, error.connection_invalidated, error.code]
            found += [type(error.orig), error.ismulti]
        error = error.__cause__
    return found


async def raised(engine: AsyncEngine, job: Job) -> list[Any]:
    with pytest.raises(DBAPIError) as caught:
        await Oban(engine, announce=False).enqueue(job)
    return told(caught.value)


RAISE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.meta ? 'code' THEN RAISE EXCEPTION 'no' USING ERRCODE = NEW.meta ->> 'code', DETAIL = 'why'; END IF;
    RETURN NEW;
END $$
"""
CODES = ["23505", "23514", "23000", "40001", "57014", "22023", "42501", "0A000", "P0001", "XX000"]


@pytest.mark.parametrize("hide", [False, True])
async def test_errors_are_those_of_sqlalchemy(database_url: str, hide: bool) -> None:
    engine = create_async_engine(database_url, hide_parameters=hide)
    async with engine.begin() as connection:
        await connection.execute(text(RAISE))
        await connection.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON oban_jobs FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    alone = [await raised(engine, Job("w", meta={"code": code})) for code in CODES]
    event.listen(engine.sync_engine, "commit", ignore)
    assert alone == [await raised(engine, Job("w", meta={"code": code})) for code in CODES]
    assert engine.pool.checkedin() == 1  # type: ignore[attr-defined]
    await engine.dispose()


async def end_connections(database_url: str, where: str) -> int:
    other = create_async_engine(database_url)
    async with other.connect() as connection:
        ended = await connection.execute(
            text(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {where}")
        )
        found = int(ended.scalar_one())
    await other.dispose()
    return found


OTHERS = "pid <> pg_backend_pid() AND datname = current_database()"


async def test_after_connections_were_ended_one_call_fails_and_the_next_go_on(
    either: AsyncEngine, database_url: str
) -> None:
    oban = Oban(either)
    async with either.connect(), either.connect():
        pass
    assert await end_connections(database_url, OTHERS) >= 2  # or one more that the server has not ended yet
    with pytest.raises(DBAPIError) as caught:
        await oban.enqueue(Job("w"))
    assert caught.value.connection_invalidated
    for _ in range(2):  # the pool has given up the other one as well
        await oban.enqueue(Job("w"))
    assert await count(either) == 2


async def test_a_connection_that_ends_during_the_statement_is_given_up(either: AsyncEngine, database_url: str) -> None:
    oban = Oban(either)
    other = create_async_engine(database_url)
    async with other.connect() as locking:
        await locking.execute(text("LOCK oban_jobs"))
        waiting = asyncio.create_task(oban.enqueue(Job("w")))

        async def ended() -> None:
            assert await end_connections(database_url, f"{OTHERS} AND wait_event_type = 'Lock'") == 1

        await eventually(ended)
        with pytest.raises(DBAPIError) as caught:
            await waiting
        assert caught.value.connection_invalidated
    await other.dispose()
    await oban.enqueue(Job("w"))
    assert await count(either) == 1


async def test_a_call_that_is_cancelled_gives_up_its_connection(either: AsyncEngine, database_url: str) -> None:
    oban = Oban(either)
    closed: list[Any] = []
    event.listen(either.sync_engine, "invalidate", lambda *given: closed.append(given[-1]))
    await oban.enqueue(Job("w"))
    other = create_async_engine(database_url)
    async with other.connect() as locking:
        await locking.execute(text("LOCK oban_jobs"))
        waiting = asyncio.create_task(oban.enqueue(Job("w")))

        async def waits() -> bool:
            asked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'oban_jobs'::regclass"
            return bool((await locking.execute(text(asked))).scalar_one())

        await eventually(waits)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
    await other.dispose()
    assert [type(error) for error in closed] == [asyncio.CancelledError]
    await oban.enqueue(Job("w"))
    assert await count(either) == 2


async def test_a_pool_that_took_the_place_of_another_is_used(
    engine: AsyncEngine, by_sqlalchemy: list[str], greenlets: list[str]
) -> None:
    oban = Oban(engine)
    await oban.enqueue(Job("w"))
    await engine.dispose()
    greenlets.clear()
    for _ in range(3):
        await oban.enqueue(Job("w"))
    assert greenlets == ["_check_out"]
    assert by_sqlalchemy == []
    assert await count(engine) == 4


async def test_what_was_known_of_another_connection_is_found_out_anew(
    engine: AsyncEngine, by_sqlalchemy: list[str]
) -> None:
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        raw.info["oban_sa.prepared"] = object(), object()  # a pool that would keep `info` where it connects anew
    await Oban(engine).enqueue(Job("w"))
    assert by_sqlalchemy == []
    assert await count(engine) == 1


async def test_a_connection_for_a_pooler_that_waits_in_the_pool_is_not_used_by_asyncpg_alone(
    database_url: str, by_sqlalchemy: list[str]
) -> None:
    arguments = {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    engine = create_async_engine(database_url, connect_args=arguments)
    async with engine.connect():
        pass
    begun: list[Any] = []
    oban = Oban(engine)
    driver_of = oban._enqueue._driver  # pyright: ignore[reportPrivateUsage]
    for _ in range(2):
        opened = driver_of.open_at_once()
        begun.append(opened)
        if opened is not None:
            await opened.close()
        await oban.enqueue(Job("w"))
    assert begun == [None, None]
    assert len(by_sqlalchemy) == 2
    assert await count(engine) == 2
    await engine.dispose()
