"""A lock that somebody else holds keeps nothing waiting but what it is about."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from oban_sa import Job, Runner, job, telemetry
from oban_sa.runner.database import server_settings
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared, Text
from oban_sa.runner.queue import cycle
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements wait for a lock for a second, so that several give up while a test looks on."""
    monkeypatch.setattr(server_settings, "LIMITS", server_settings.LIMITS.replace("'2000'", "'1000'"))


@asynccontextmanager
async def holding(harness: Harness, *statements: str) -> AsyncIterator[AsyncConnection]:
    """An outsider's transaction that runs these statements and stays open."""
    async with harness.engine.connect() as outsider:
        for statement in statements:
            await outsider.execute(text(statement))
        yield outsider
        await outsider.rollback()


async def connections(harness: Harness) -> int:
    """How many sessions of the runner there are in this database: all but that of who asks, and of who holds locks."""
    [[count]] = await harness.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    return int(count)


async def test_a_lock_on_one_executing_row_holds_up_no_other_job(
    harness: Harness, of, caplog: pytest.LogCaptureFixture
) -> None:
    gate, runs = asyncio.Event(), Counter[int]()
    most = running = 0

    @job(name="together", registry=harness.registry)
    async def together(job: Job) -> None:
        runs[job.id] += 1
        await gate.wait()

    @job(name="counted", registry=harness.registry)
    async def counted(job: Job) -> None:
        nonlocal most, running
        runs[job.id] += 1
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    ids = await harness.enqueue(*(together.new() for _ in range(5)))
    async with harness.runner(queues={"default": 5}) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 5)
        culprit = ids[2]
        async with holding(
            harness, f"SELECT * FROM oban_jobs WHERE id = {culprit} FOR UPDATE /* outsider */"
        ) as outsider:
            pid = (await outsider.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            gate.set()
            for job_id in ids:
                if job_id != culprit:
                    await harness.becomes(job_id, "completed")
            # And the queue goes on with others, more than there are slots.
            others = await harness.enqueue(*(counted.new() for _ in range(30)))
            for job_id in others:
                await harness.becomes(job_id, "completed")
            assert (await harness.job(culprit)).state == "executing"
            assert not producer.idle()
        assert (await harness.becomes(culprit, "completed")).attempt == 1
        await eventually(producer.idle)
    assert runs == dict.fromkeys([*ids, *others], 1)
    assert most <= 5
    [named] = of(telemetry.RunnerLocked)
    assert (named.pid, named.query) == (pid, "SELECT pg_backend_pid()")
    assert named.state == "idle in transaction"
    assert f"holds a lock on the row of job {culprit}; its outcome (completed)" in caplog.text
    assert caplog.text.count(f"pid {pid}") == 1
    assert "the database is away" not in caplog.text
    assert of(telemetry.JobStale) == []


@pytest.mark.parametrize(
    "lock", ["LOCK TABLE oban_jobs IN SHARE MODE", "LOCK TABLE oban_jobs, oban_producers IN ACCESS EXCLUSIVE MODE"]
)
async def test_a_lock_on_a_table_opens_no_connection_and_loses_nothing(
    harness: Harness, of, caplog: pytest.LogCaptureFixture, lock: str
) -> None:
    gate, runs = asyncio.Event(), Counter[int]()

    @job(name="together", registry=harness.registry)
    async def together(job: Job) -> None:
        runs[job.id] += 1
        await gate.wait()

    ids = await harness.enqueue(*(together.new() for _ in range(8)))
    async with harness.runner(queues={"default": 5, "other": 1, "third": 1}, dead_after=60) as runner:
        await eventually(lambda: len(runner._queues.all[0].running) == 5)
        await eventually(lambda: runner._notifier.proven)
        at_first: int | None = None
        most = 0
        async with holding(harness, lock):
            gate.set()
            given_up = Counter[str]()

            async def several_have_given_up() -> None:
                nonlocal most, at_first
                given_up.clear()
                given_up.update(
                    event.part for event in of(telemetry.RunnerRetry) if "LockNotAvailable" in repr(event.error)
                )
                assert given_up["queue default"], given_up
                count = await connections(harness)
                at_first, most = at_first or count, max(most, count)
                assert given_up["queue default"] >= 4, given_up

            await eventually(several_have_given_up, 30)
        # The one that asks who is in the way comes and goes.
        assert at_first is not None
        assert most <= at_first + 1
        for job_id in ids:
            assert (await harness.becomes(job_id, "completed", 30)).attempt == 1
    assert runs == dict.fromkeys(ids, 1)
    assert len(of(telemetry.RunnerLocked)) == 1
    assert "queue default waits for a lock that somebody holds" in caplog.text
    assert "the database is away" not in caplog.text


async def test_a_lock_on_the_row_of_a_producer_holds_up_no_outcome(harness: Harness, of, caplog) -> None:
    @job(name="together", registry=harness.registry)
    async def together() -> None:
        await gate.wait()

    gate = asyncio.Event()
    ids = await harness.enqueue(*(together.new() for _ in range(3)))
    async with harness.runner(queues={"default": 3}, dead_after=60) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 3)
        async with holding(harness, "SELECT * FROM oban_producers FOR UPDATE"):
            gate.set()
            for job_id in ids:
                await harness.becomes(job_id, "completed")
            producer.scale(2)  # which its row is to say
            [after] = await harness.enqueue(together.new())
        await harness.becomes(after, "completed")
        assert await harness.sql("SELECT meta->>'limit' FROM oban_producers") == [("2",)]
    assert "the database is away" not in caplog.text


async def test_a_row_that_was_fetched_without_an_answer_and_is_locked_holds_up_no_other(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="nothing", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner() as runner:
        [producer] = runner._queues.all
        [job_id] = await harness.enqueue(Job("nothing", queue="elsewhere"))
        await harness.sql(
            "UPDATE oban_jobs SET state = 'executing', queue = 'default', attempt = 1, "
            "attempted_by = CAST(:holder AS text[]) WHERE id = :id",
            holder=producer.holder,
            id=job_id,
        )
        async with holding(harness, f"SELECT * FROM oban_jobs WHERE id = {job_id} FOR UPDATE"):
            producer._cycle._reclaimed_at = cycle.NOW
            [other] = await harness.enqueue(nothing.new())
            await harness.becomes(other, "completed")
        monkeypatch.setattr(cycle, "RECLAIM_EVERY", 0.1)
        assert (await harness.becomes(job_id, "completed")).attempt == 1


async def test_a_runner_that_stops_writes_what_no_lock_stands_in_the_way_of(harness: Harness, caplog) -> None:
    gate = asyncio.Event()

    @job(name="together", registry=harness.registry)
    async def together() -> None:
        await gate.wait()

    ids = await harness.enqueue(*(together.new() for _ in range(3)))
    runner = Runner(harness.engine, **{**harness.options, "registry": harness.registry})
    await runner.__aenter__()
    await eventually(lambda: len(runner._queues.all[0].running) == 3)
    async with holding(harness, f"SELECT * FROM oban_jobs WHERE id = {ids[0]} FOR UPDATE"):
        gate.set()
        await runner.__aexit__(None, None, None)
        assert [(await harness.job(job_id)).state for job_id in ids] == ["executing", "completed", "completed"]
        # Where the row says whose job it is, others rescue it.
        assert len(await harness.sql("SELECT * FROM oban_producers")) == 1
    assert "could not write its last outcomes" in caplog.text


async def test_a_statement_that_is_given_up_is_cancelled_in_the_server(harness: Harness) -> None:
    line = Database(harness.engine).line()
    slow = Prepared(lambda: Text("SELECT pg_sleep(600)", (), {}))

    async def sleeping() -> None:
        found = await harness.sql(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        )
        assert found == []

    with pytest.raises(TimeoutError):
        await line.fetch(slow, 0.1)
    await eventually(sleeping)
    with pytest.raises(TimeoutError):
        async with line.transaction(within=0.1) as transaction:
            await transaction.fetch(slow)
    await eventually(sleeping)
    await line.close()


async def test_limits_of_the_role_do_not_hold_for_the_runners_own_connections(harness: Harness) -> None:
    [[role, name]] = await harness.sql("SELECT current_user, current_database()")
    for limit in ("statement_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"):
        await harness.sql(f'ALTER ROLE {role} IN DATABASE "{name}" SET {limit} = 300')
    await harness.engine.dispose()
    line = Database(harness.engine).line()
    rows = await line.fetch(
        Prepared(
            lambda: Text(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
                "current_setting('idle_session_timeout'), current_setting('idle_in_transaction_session_timeout')",
                (),
                {},
            )
        )
    )
    await line.close()
    assert [tuple(row) for row in rows] == [("35s", "1s", "0", "1min")]
