"""Jobs through PgBouncer in transaction mode: each statement may meet another connection of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from oban_sa import Job, Oban, Runner, enqueue_many, job, telemetry
from oban_sa.client import slots
from oban_sa.runner.cluster import notifier
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import UNPREPARED, create_engine
from oban_sa.workers import Registry
from tests.acceptance.pgbouncer import PROGRAM, answers, pooler, version
from tests.support import eventually, plain_url, process

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")

JOBS = """
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from oban_sa import job

@job()
async def plain(number: int) -> None:
    pass

@job()
async def written(session: AsyncSession, number: int) -> None:
    await session.execute(text("INSERT INTO done VALUES (:number)"), {"number": number})
"""


@pytest.fixture
async def pooled_url(database_url: str) -> AsyncIterator[str]:
    """The test's database, through a pooler that knows nothing of prepared statements."""
    with pooler(database_url) as url:
        await answers(url)
        yield url


@pytest.fixture
async def pooled(pooled_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine as docs/poolers.md tells to make it."""
    engine = create_async_engine(pooled_url, connect_args=dict(UNPREPARED))
    yield engine
    await engine.dispose()


@pytest.fixture
def events() -> Iterator[list[telemetry.Event]]:
    seen: list[telemetry.Event] = []
    detach = telemetry.attach(seen.append)
    yield seen
    detach()


@pytest.fixture
def registry() -> Registry:
    found = Registry()

    @job(registry=found, name="plain")
    async def plain(number: int) -> None:
        pass

    return found


async def states(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT state::text, count(*) FROM oban_jobs GROUP BY 1"))
        return {row[0]: row[1] for row in rows}


async def stored(engine: AsyncEngine, *jobs: Job) -> None:
    async with AsyncSession(engine) as session, session.begin():
        enqueue_many(session, jobs)


async def test_a_runner_started_with_pooler_does_every_job_through_it(
    pooled_url: str, pooled: AsyncEngine, engine: AsyncEngine, tmp_path: Path
) -> None:
    (tmp_path / "pooledjobs.py").write_text(JOBS)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE done (number int PRIMARY KEY)"))
    await Oban(pooled).enqueue_many(Job("pooledjobs.plain", args={"number": number}) for number in range(200))
    await stored(pooled, *(Job("pooledjobs.written", queue="b", args={"number": number}) for number in range(200)))
    words = ["-m", "oban_sa.runner", "--import", "pooledjobs", "--queues", "default:10,b:10", "--until-idle"]
    words += ["--pooler", "--database-url", plain_url(pooled_url)]
    with process(words, cwd=tmp_path) as runner:
        assert await runner.ended(60) == 0, runner.output
    assert await states(engine) == {"completed": 400}
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM done"))).scalar() == 200
    for trouble in ("WARNING", "ERROR", "prepared"):
        assert trouble not in runner.output


async def test_a_runner_that_hears_nothing_says_so_once_and_polls(
    pooled: AsyncEngine,
    engine: AsyncEngine,
    registry: Registry,
    events: list[telemetry.Event],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifier, "PROBE_WITHIN", 0.5)
    monkeypatch.setattr(notifier, "PROBE_EVERY", 0.1)
    async with Runner(pooled, registry=registry, poll_every=0.2) as runner:
        await eventually(lambda: any(isinstance(event, telemetry.NotifierDeaf) for event in events))
        before = runner._notifier._nonce
        await eventually(lambda: runner._notifier._nonce != before)  # it tried again
        await stored(pooled, Job("plain", args={"number": 1}))

        async def done() -> None:
            assert await states(engine) == {"completed": 1}

        await eventually(done)
    assert not any(isinstance(event, telemetry.NotifierConnected) for event in events)
    said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "--listen-url" in said[0]


async def test_a_direct_url_hears_what_is_said_through_the_pooler(
    pooled: AsyncEngine, engine: AsyncEngine, database_url: str, registry: Registry, events: list[telemetry.Event]
) -> None:
    listen_url = plain_url(database_url)
    async with Runner(pooled, registry=registry, poll_every=3600, stage_every=3600, listen_url=listen_url):
        await eventually(lambda: any(isinstance(event, telemetry.NotifierConnected) for event in events))
        await stored(pooled, Job("plain", args={"number": 1}))

        async def done() -> None:
            assert await states(engine) == {"completed": 1}

        await eventually(done)


async def test_a_listen_url_of_another_database_is_found_out(
    pooled: AsyncEngine,
    empty_database_url: str,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notifier, "PROBE_WITHIN", 0.5)
    async with Runner(pooled, registry=registry, listen_url=plain_url(empty_database_url)):
        await eventually(lambda: "does it lead to the very same database" in caplog.text.lower())


async def test_an_engine_that_prepares_statements_is_told_what_to_write(
    pooled_url: str, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine(plain_url(pooled_url))
    queues = {f"queue{number}": 1 for number in range(10)}
    try:
        async with Runner(engine, registry=registry, queues=queues, poll_every=0.05):
            await eventually(lambda: "--pooler" in caplog.text)
    finally:
        await engine.dispose()
    assert caplog.text.count("start with --pooler") == 1


async def settings_of_the_server(pooled: AsyncEngine) -> set[str]:
    """What is set on the server's connections, all three of them at once."""
    async with AsyncExitStack() as stack:
        found: set[str] = set()
        for _ in range(3):
            connection = await stack.enter_async_context(pooled.connect())
            found |= set(await connection.scalars(text("SELECT name FROM pg_settings WHERE source = 'session'")))
        return found


@pytest.mark.parametrize("connect_args", [{}, dict(UNPREPARED)], ids=["prepared", "unprepared"])
async def test_nothing_that_a_runner_sets_for_itself_stays_for_others(
    pooled_url: str, pooled: AsyncEngine, registry: Registry, connect_args: dict[str, Any]
) -> None:
    before = await settings_of_the_server(pooled)
    engine = create_async_engine(pooled_url, connect_args=connect_args)
    async with Runner(engine, registry=registry, queues={"a": 1, "b": 1, "c": 1}, poll_every=0.05) as runner:
        await eventually(lambda: all(producer.cycled_at is not None for producer in runner._queues.all))
        assert await settings_of_the_server(pooled) <= before
    await engine.dispose()


async def test_a_direct_connection_is_set_up_for_the_runner(database_url: str) -> None:
    engine = create_async_engine(database_url)
    connection = await Database(engine).connect()
    assert await connection.fetchval("SHOW enable_seqscan") == "off"
    assert await connection.fetchval("SHOW plan_cache_mode") == "force_custom_plan"
    await connection.close()
    await engine.dispose()


@pytest.mark.skipif(PROGRAM is None or version() < (1, 21), reason="needs PgBouncer 1.21")
async def test_a_pooler_that_keeps_prepared_statements_needs_no_setting(
    database_url: str, engine: AsyncEngine, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    with pooler(database_url, prepared=200) as url:
        await answers(url)
        pooled = create_engine(plain_url(url))
        await stored(pooled, *(Job("plain", args={"number": number}) for number in range(200)))
        await Runner(pooled, registry=registry).run(until_idle=True)
        await pooled.dispose()
    assert await states(engine) == {"completed": 200}
    assert "prepared" not in caplog.text


async def test_such_an_engine_leaves_no_statement_behind_on_the_server(database_url: str) -> None:
    engine = create_async_engine(database_url, connect_args=dict(UNPREPARED), pool_size=1)
    async with AsyncSession(engine) as session, session.begin():
        enqueue_many(session, [Job("plain", args={"number": 1})])
    async with engine.connect() as connection:
        left = await connection.execute(text("SELECT statement FROM pg_prepared_statements"))
        assert left.all() == []
    await engine.dispose()


async def test_limits_outside_of_jobs_hold_through_it(pooled: AsyncEngine) -> None:
    oban, now, most = Oban(pooled), 0, 0

    async def one() -> None:
        nonlocal now, most
        async with oban.limit("api", limit=2, rate="1000/s"):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    def in_a_thread() -> None:
        with oban.limit_sync("api", limit=2):
            pass

    await asyncio.gather(*(one() for _ in range(20)))
    await asyncio.to_thread(in_a_thread)
    assert most == 2
    async with pooled.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM oban_sa_leases")) == 0
    slots.end_idle()
