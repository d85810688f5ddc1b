"""Limits outside of jobs: who gets a slot, who waits, and what becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Oban, Rate
from oban_sa.client import slot_keeper, slots
from oban_sa.errors import InvalidOption, LimitLost, LimitReached
from tests.support import eventually, plain_url, run_python

WATCH = """
CREATE TABLE starts (name text, key text, at timestamp);
CREATE TABLE overruns (name text, key text, held int);
CREATE FUNCTION note_slots() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO overruns
    SELECT name, key, count(*) FROM oban_sa_leases WHERE taken_at IS NOT NULL GROUP BY name, key
    HAVING count(*) > 3;
    RETURN NULL;
END $$;
CREATE FUNCTION note_start() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO starts VALUES (NEW.name, NEW.key, NEW.taken_at);
    RETURN NULL;
END $$;
CREATE TRIGGER note_slots AFTER INSERT OR UPDATE ON oban_sa_leases FOR EACH STATEMENT EXECUTE FUNCTION note_slots();
CREATE TRIGGER note_insert AFTER INSERT ON oban_sa_leases FOR EACH ROW WHEN (NEW.taken_at IS NOT NULL)
EXECUTE FUNCTION note_start();
CREATE TRIGGER note_update AFTER UPDATE ON oban_sa_leases FOR EACH ROW
WHEN (NEW.taken_at IS NOT NULL AND OLD.taken_at IS NULL) EXECUTE FUNCTION note_start();
"""
"""Notes each start, and at the end of each statement, before its locks are gone, whether more than 3 hold a slot."""


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """No thread and no connection outlives a test."""
    yield
    slots.end_idle()
    assert not [each for each in threading.enumerate() if each.name == "oban_sa limits"]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(plain_url(database_url))
    yield made
    await made.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Oban]:
    """The client of what is as good as another process: nothing of this module knows that both are one."""
    made = create_async_engine(database_url)
    yield Oban(made)
    await made.dispose()


async def rows(connection: asyncpg.Connection) -> list[tuple[str, str, bool]]:
    found = await connection.fetch("SELECT name, key, taken_at IS NOT NULL FROM oban_sa_leases ORDER BY id")
    return [tuple(row) for row in found]


def quick(monkeypatch: pytest.MonkeyPatch, holds: float = 2.0) -> None:
    monkeypatch.setattr(slot_keeper, "HOLDS", holds)
    monkeypatch.setattr(slot_keeper, "KEEP_EVERY", holds / 10)


async def test_no_more_run_at_once_than_the_limit(
    driven: AsyncEngine, other: Oban, connection: asyncpg.Connection
) -> None:
    await connection.execute(WATCH)
    here, now, most = Oban(driven), 0, 0

    async def one(n: int) -> None:
        nonlocal now, most
        async with (here if n % 2 else other).limit("api", key=n % 4 // 2, limit=3):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    await asyncio.gather(*(one(n) for n in range(60)))
    assert 3 <= most <= 6
    assert await connection.fetch("SELECT * FROM overruns") == []
    found = await connection.fetch("SELECT key, count(*) FROM starts GROUP BY key ORDER BY key")
    assert [tuple(row) for row in found] == [("0", 30), ("1", 30)]
    assert await rows(connection) == []


async def test_no_more_begin_in_any_span_than_the_rate(
    driven: AsyncEngine, other: Oban, connection: asyncpg.Connection
) -> None:
    await connection.execute(WATCH)
    rate = Rate(10, per=0.5)

    async def one(n: int) -> None:
        async with (Oban(driven) if n % 2 else other).limit("api", limit=100, rate=rate):
            pass

    await asyncio.gather(*(one(n) for n in range(35)))
    at = [row["at"].timestamp() for row in await connection.fetch("SELECT at FROM starts ORDER BY at")]
    assert len(at) == 35
    windows = [bisect_right(at, start + rate.span) - n for n, start in enumerate(at)]
    assert max(windows) == 10


async def test_a_rate_alone_holds_nothing_and_counts_every_start(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    oban = Oban(engine)
    for _ in range(2):
        async with oban.limit("api", rate="2/minute", wait=0) as slot:
            assert await rows(connection) == []
            assert not slot.lost
    with pytest.raises(LimitReached) as reached:
        async with oban.limit("api", rate="2/minute", wait=0):
            pytest.fail("it began")
    assert (reached.value.name, reached.value.key, reached.value.full) == ("api", "", "rate")
    assert 30 < (reached.value.retry_in or 0) <= 61
    assert "limit 'api' has spent its rate of 2 in 1 minute; the next start is free in " in str(reached.value)


async def test_it_says_what_was_full(engine: AsyncEngine, connection: asyncpg.Connection) -> None:
    oban = Oban(engine)
    async with oban.limit("api", key="acme", limit=1):
        async with oban.limit("api", key="globex", limit=1):  # another key is another limit
            assert await rows(connection) == [("api", "acme", True), ("api", "globex", True)]
        for wait, said in ((0, "is full:"), (0.05, "is full after 50 ms:")):
            with pytest.raises(LimitReached, match=f"limit 'api' of 'acme' {said} 1 of 1 are held") as reached:
                async with oban.limit("api", key="acme", limit=1, wait=wait):
                    pytest.fail("it began")
            assert (reached.value.key, reached.value.full, reached.value.retry_in) == ("acme", "limit", None)
        assert await rows(connection) == [("api", "acme", True)]


async def test_callers_with_different_limits_count_each_other(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    async with oban.limit("api", limit=5), oban.limit("api", limit=5, wait=0):
        with pytest.raises(LimitReached, match="2 of 2 are held"):
            async with oban.limit("api", limit=2, wait=0):
                pytest.fail("it began")


async def test_a_slot_is_free_after_an_exception_and_after_a_cancellation(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    oban = Oban(engine)
    with pytest.raises(ZeroDivisionError):
        async with oban.limit("api", limit=1):
            raise ZeroDivisionError
    assert await rows(connection) == []

    async def long() -> None:
        async with oban.limit("api", limit=1):
            await asyncio.sleep(60)

    task = asyncio.create_task(long())
    await eventually(lambda: rows(connection))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(connection) == []


async def test_who_is_cancelled_while_it_waits_leaves_no_place_behind(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    oban = Oban(engine)

    async def wait() -> None:
        async with oban.limit("api", limit=1):
            pytest.fail("it began")

    async with oban.limit("api", limit=1):
        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await eventually(lambda: is_waiting(connection))
        for task in tasks:
            task.cancel()
        assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 3
        assert await rows(connection) == [("api", "", True)]
    async with oban.limit("api", limit=1, wait=0):
        pass


async def is_waiting(connection: asyncpg.Connection, count: int = 1) -> None:
    assert [each[2] for each in await rows(connection)].count(False) == count


async def test_who_is_cancelled_while_the_statement_runs_gives_back_what_it_takes(
    driven: AsyncEngine, connection: asyncpg.Connection
) -> None:
    async def take() -> None:
        async with Oban(driven).limit("api", limit=1):
            pytest.fail("it began")

    async with locked(connection):
        task = asyncio.create_task(take())
        await eventually(lambda: waits_for_a_lock(connection))
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: nothing(connection))


@asynccontextmanager
async def locked(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Have the function wait for its lock."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('oban_sa public api' || E'\\n', 2))")
        yield


async def waits_for_a_lock(connection: asyncpg.Connection) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    )


async def nothing(connection: asyncpg.Connection) -> None:
    assert await rows(connection) == []


async def test_who_waits_is_passed_by_none_that_comes_later(
    engine: AsyncEngine, other: Oban, connection: asyncpg.Connection
) -> None:
    oban = Oban(engine)
    order: list[str] = []

    async def take(client: Oban, who: str) -> None:
        async with client.limit("api", limit=1):
            order.append(who)

    async with oban.limit("api", limit=1):
        first = asyncio.create_task(take(other, "first"))
        await eventually(lambda: is_waiting(connection))
        second = asyncio.create_task(take(oban, "second"))
        await eventually(lambda: is_waiting(connection, 2))
    await asyncio.gather(first, second)
    assert order == ["first", "second"]


async def test_one_that_tries_once_passes_none_that_wait(engine: AsyncEngine, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "INSERT INTO oban_sa_leases (name, holder, expires_at) "
        "VALUES ('api', gen_random_uuid(), timezone('UTC', now()) + interval '1 minute')"
    )
    with pytest.raises(LimitReached, match="0 of 1 are held, and others wait before this one: 1; one is free"):
        async with Oban(engine).limit("api", limit=1, wait=0):
            pytest.fail("it began")
    with pytest.raises(LimitReached, match="has spent its rate of 1 in 1 minute, and others wait before this one: 1"):
        async with Oban(engine).limit("api", rate="1/minute", wait=0):
            pytest.fail("it began")
    async with Oban(engine).limit("api", limit=2, rate="3/minute", wait=0):
        pass


async def test_a_place_of_one_that_died_while_it_waited_holds_up_none_for_long(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO oban_sa_leases (name, holder, expires_at) "
        "VALUES ('api', gen_random_uuid(), timezone('UTC', now()) + interval '0.3 seconds')"
    )
    async with Oban(engine).limit("api", limit=1, wait=30):
        assert await rows(connection) == [("api", "", True)]


async def test_a_slot_whose_holder_died_is_free_when_it_expires(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    insert = (
        "INSERT INTO oban_sa_leases (name, holder, taken_at, expires_at) VALUES ('api', gen_random_uuid(), "
        "timezone('UTC', now()), timezone('UTC', clock_timestamp()) + $1 * interval '1 second')"
    )
    await connection.execute(insert, 60.0)
    with pytest.raises(LimitReached):
        async with Oban(engine).limit("api", limit=1, wait=0):
            pytest.fail("it began")
    await connection.execute("UPDATE oban_sa_leases SET expires_at = timezone('UTC', clock_timestamp())")
    async with Oban(engine).limit("api", limit=1, wait=0):
        pass


async def test_a_slot_that_is_just_being_kept_is_not_given_to_another(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "INSERT INTO oban_sa_leases (name, holder, taken_at, expires_at) VALUES ('api', gen_random_uuid(), "
        "timezone('UTC', now()), timezone('UTC', now()) - interval '1 second')"
    )
    async with connection.transaction():
        # It has expired, and its holder's statement that keeps it is not committed yet.
        await connection.execute("UPDATE oban_sa_leases SET expires_at = expires_at + interval '1 minute'")
        with pytest.raises(LimitReached):
            async with Oban(engine).limit("api", limit=1, wait=0):
                pytest.fail("it began")


async def test_a_block_is_interrupted_where_its_slot_is_lost(
    driven: AsyncEngine, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with pytest.raises(LimitLost, match="the slot of limit 'api' of '7' was lost while it was held") as lost:
        async with Oban(driven).limit("api", key=7, limit=1) as slot:
            await connection.execute("DELETE FROM oban_sa_leases")
            try:
                await asyncio.sleep(30)
                pytest.fail("it was not interrupted")
            finally:
                assert slot.lost
    assert (lost.value.name, lost.value.key) == ("api", "7")
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_the_end_of_a_block_tells_that_its_slot_was_lost(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    with pytest.raises(LimitLost):
        async with Oban(engine).limit("api", limit=1):
            await connection.execute("DELETE FROM oban_sa_leases")


async def test_an_error_of_the_block_is_not_hidden_by_a_lost_slot(
    engine: AsyncEngine, connection: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Oban(engine).limit("api", limit=1):
            await connection.execute("DELETE FROM oban_sa_leases")
            raise ZeroDivisionError
    assert "the slot of limit 'api' was lost while it was held" in caplog.text


async def test_a_slot_stays_held_while_the_loop_is_blocked(
    engine: AsyncEngine, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, 6.0)
    async with Oban(engine).limit("api", limit=1):
        time.sleep(1.2 * slot_keeper.HOLDS)  # noqa: ASYNC251 - the loop is to be blocked
        [expires_in] = await connection.fetchrow(
            "SELECT expires_at - timezone('UTC', clock_timestamp()) FROM oban_sa_leases"
        )
        assert expires_in.total_seconds() > 0


async def test_a_block_ends_before_its_slot_expires_where_it_can_not_be_kept(
    engine: AsyncEngine, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)

    async def fail(*_: object) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(slot_keeper.Line, "keep", fail)
    with pytest.raises(LimitLost):
        async with asyncio.timeout(30), Oban(engine).limit("api", limit=1):
            await asyncio.sleep(60)


async def test_a_slot_that_can_not_be_given_back_is_told_of_and_expires(
    engine: AsyncEngine,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("the network is down")

    async with Oban(engine).limit("api", limit=1):
        monkeypatch.setattr(slot_keeper.Line, "give_back", fail)
    assert "a slot of limit 'api' could not be given back (" in caplog.text
    assert "it is free in 30 seconds" in caplog.text
    assert await rows(connection) == [("api", "", True)]


async def test_cancelling_from_outside_stays_a_cancellation(
    engine: AsyncEngine, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), Oban(engine).limit("api", limit=1):
            await asyncio.sleep(60)
    assert await rows(connection) == []


async def test_synchronous_code_has_limits_too(driven: AsyncEngine, connection: asyncpg.Connection) -> None:
    await connection.execute(WATCH)
    oban = Oban(driven)

    def one(n: int) -> None:
        with oban.limit_sync("api", limit=3) as slot:
            time.sleep(0.01)
            assert not slot.lost

    await asyncio.gather(*(asyncio.to_thread(one, n) for n in range(20)))
    assert await connection.fetch("SELECT * FROM overruns") == []
    assert await connection.fetchval("SELECT count(*) FROM starts") == 20

    def fail() -> None:
        with oban.limit_sync("api", limit=1, rate="3/s"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(fail)
    assert await rows(connection) == []


async def test_synchronous_code_on_a_loop_is_told_what_to_write(engine: AsyncEngine) -> None:
    block = Oban(engine).limit_sync("api", limit=1)
    with pytest.raises(InvalidOption, match=r"would block .* write async with oban\.limit"), block:
        raise AssertionError


async def test_synchronous_code_is_refused_and_told_of_a_loss(
    engine: AsyncEngine, connection: asyncpg.Connection
) -> None:
    oban = Oban(engine)

    def one() -> None:
        with oban.limit_sync("api", limit=1, wait=0):
            asyncio.run_coroutine_threadsafe(connection.execute("DELETE FROM oban_sa_leases"), loop).result()

    loop = asyncio.get_running_loop()
    with pytest.raises(LimitLost):
        await asyncio.to_thread(one)
    async with oban.limit("api", limit=1):
        with pytest.raises(LimitReached):
            await asyncio.to_thread(one)


@pytest.mark.parametrize("where", ["engine", "role"])
async def test_limits_hold_whatever_the_isolation_level_is(
    database_url: str, connection: asyncpg.Connection, where: str
) -> None:
    await connection.execute(WATCH)
    if where == "engine":
        engine = create_async_engine(database_url, isolation_level="REPEATABLE READ")
    else:
        settings = {"default_transaction_isolation": "repeatable read"}
        engine = create_async_engine(database_url, connect_args={"server_settings": settings})
    oban = Oban(engine)

    async def one() -> None:
        async with oban.limit("api", limit=3):
            await asyncio.sleep(0.01)

    await asyncio.gather(*(one() for _ in range(20)))

    def in_a_thread() -> None:
        with oban.limit_sync("api", limit=3):
            pass

    await asyncio.to_thread(in_a_thread)
    assert await connection.fetch("SELECT * FROM overruns") == []
    assert await connection.fetchval("SELECT count(*) FROM starts") == 21
    slots.end_idle()
    await engine.dispose()


async def keeps(connection: asyncpg.Connection) -> bool:
    """A slot was kept, so that there is a connection for it."""
    found = await connection.fetchval(
        "SELECT max(expires_at - taken_at) > $1 * interval '1 second' FROM oban_sa_leases", slot_keeper.HOLDS
    )
    return bool(found)


async def test_nothing_is_left_once_nothing_is_held(
    engine: AsyncEngine, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch, holds=10)
    monkeypatch.setattr(slot_keeper, "IDLE", 0.1)
    async with Oban(engine).limit("api", limit=1):
        assert [each.name for each in threading.enumerate()].count("oban_sa limits") == 1
        await eventually(lambda: keeps(connection))
    await eventually(lambda: [each.name for each in threading.enumerate()].count("oban_sa limits") == 0)
    assert not slots.in_use()
    await engine.dispose()

    async def alone() -> None:
        statement = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert await connection.fetchval(statement) == 1

    await eventually(alone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "limit 'api' limits nothing; write limit=4 for so many at once, or rate=Rate(100, per=60)"),
        ({"limit": 0}, "limit is a number from 1"),
        ({"limit": 1.5}, "limit is a whole number"),
        ({"rate": "60/minte"}, "did you mean 'minute'?"),
        ({"rate": Rate(3, per=1, weight="args.n")}, "weight says where a job has how much it counts"),
        ({"rate": Rate(3, per=1, shared=True)}, "shared is for queues with partitions"),
        ({"limit": 1, "key": 1.5}, "key is 1.5; a key is a text, a whole number or a tuple of these"),
        ({"limit": 1, "wait": -1}, "wait: a span of time can't be negative, and -1 is"),
        ({"limit": 1, "wait": "soon"}, "wait: 'soon' is not a span of time"),
        ({"limit": 1, "name": ""}, "the name of a limit is a text"),
        ({"limit": 1, "name": 7}, "the name of a limit is a text"),
    ],
)
def test_what_can_not_be_meant_is_refused_at_once(engine: AsyncEngine, options: dict[str, Any], message: str) -> None:
    given = {"name": "api", **options}
    with pytest.raises(InvalidOption) as refused:
        Oban(engine).limit(**given)
    assert message in str(refused.value)
    with pytest.raises(InvalidOption):
        Oban(engine).limit_sync(**given)


FORKS = """
import asyncio, os, sys
from sqlalchemy.ext.asyncio import create_async_engine
from oban_sa import Oban
from oban_sa.client import slots

async def main():
    engine = create_async_engine(sys.argv[1])
    async with Oban(engine).limit("api", limit=1):
        assert slots.in_use()
        child = os.fork()
        if not child:
            os._exit(3 if slots.in_use() else 0)
        assert os.waitpid(child, 0)[1] == 0
    slots.end_idle()
    await engine.dispose()

asyncio.run(main())
"""


def test_a_forked_process_begins_anew(database_url: str) -> None:
    done = run_python("-c", FORKS, database_url)
    assert done.returncode == 0, done.stderr
