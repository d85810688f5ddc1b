"""The connections of attempts: as few as the pool keeps, as late as possible, and never those that the runner needs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import NullPool, event, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, enqueue, job, telemetry
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.runner.sessions import connections
from oban_sa.runner.sessions.connections import Slots
from tests.runner.conftest import Harness
from tests.support import eventually

KINDS = ["async", "sync"]


@pytest.fixture
async def tight(database_url: str, harness: Harness) -> AsyncIterator[AsyncEngine]:
    """An engine with five connections and little patience; what the runner does, it does on this engine too."""
    made = create_async_engine(database_url, pool_size=5, max_overflow=0, pool_timeout=1)
    harness.engine = made
    await harness.sql("CREATE TABLE effects (n int PRIMARY KEY)")
    yield made
    await made.dispose()


class Most:
    """Counts the connections of a pool that are out at once."""

    def __init__(self, engine: Any) -> None:
        self.now = self.most = 0
        event.listen(engine, "checkout", lambda *_: self._change(1))
        event.listen(engine, "checkin", lambda *_: self._change(-1))

    def _change(self, by: int) -> None:
        self.now += by
        self.most = max(self.most, self.now)


INSERT = text("INSERT INTO effects VALUES (:n)")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_hundred_jobs_share_a_pool_of_five(harness: Harness, tight: AsyncEngine, kind: str, of: Any) -> None:
    if kind == "async":

        @job(name="worker", registry=harness.registry, timeout=5)
        async def on_loop(session: AsyncSession, n: int) -> None:
            await session.execute(INSERT, {"n": n})
            await session.execute(text("SELECT pg_sleep(0.3)"))

    else:

        @job(name="worker", registry=harness.registry, timeout=5)
        def in_thread(session: Session, n: int) -> None:
            session.execute(INSERT, {"n": n})
            session.execute(text("SELECT pg_sleep(0.3)"))

    await harness.enqueue(*(Job("worker", args={"n": n}) for n in range(100)))
    # The last ones wait for longer than any may take, and than the pool's own patience.
    await harness.drain(queues={"default": 100})
    assert await harness.states() == {"completed": 100}
    assert of(telemetry.JobException) == []
    assert len(await harness.sql("SELECT n FROM effects")) == 100
    assert tight.pool.checkedout() == 0


async def test_synchronous_connections_are_bounded_too(
    harness: Harness, tight: AsyncEngine, sync_sessions: sessionmaker[Session]
) -> None:
    @job(name="worker", registry=harness.registry)
    def in_thread(session: Session, n: int) -> None:
        session.execute(INSERT, {"n": n})

    most = Most(sync_sessions.kw["bind"])
    await harness.enqueue(*(Job("worker", args={"n": n}) for n in range(40)))
    await harness.drain(queues={"default": 40}, sessions=sync_sessions)
    assert await harness.states() == {"completed": 40}
    assert 1 <= most.most <= 5


@pytest.mark.parametrize("kind", KINDS)
async def test_no_connection_is_held_before_the_first_use_nor_after_an_early_commit(
    harness: Harness, tight: AsyncEngine, kind: str
) -> None:
    out: list[int] = []

    def body(session: Session) -> None:
        out.append(tight.pool.checkedout())
        session.execute(text("SELECT 1"))
        out.append(tight.pool.checkedout())
        session.commit()
        out.append(tight.pool.checkedout())
        session.execute(text("SELECT 1"))
        out.append(tight.pool.checkedout())

    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def on_loop(session: AsyncSession) -> None:
            await session.run_sync(body)

    else:

        @job(name="worker", registry=harness.registry)
        def in_thread(session: Session) -> None:
            body(session)

    await harness.enqueue(Job("worker"))
    await harness.drain()
    assert await harness.states() == {"completed": 1}
    assert out == [0, 1, 0, 1]


async def test_fetching_acking_and_heartbeats_never_wait_for_connections_of_jobs(
    harness: Harness, tight: AsyncEngine
) -> None:
    release = asyncio.Event()
    holding: list[int] = []

    @job(registry=harness.registry)
    async def holds(session: AsyncSession, n: int) -> None:
        await session.execute(INSERT, {"n": n})
        holding.append(n)
        await release.wait()

    @job(queue="other", registry=harness.registry)
    async def plain() -> None: ...

    await harness.enqueue(*(holds.new(n) for n in range(20)), *(plain.new() for _ in range(50)))
    other = create_async_engine(tight.url)

    async def beats() -> int:
        async with other.connect() as connection:
            found = await connection.execute(text("SELECT max(xmin::text::bigint) FROM oban_producers"))
            return found.scalar_one()

    async def done() -> bool:
        async with other.connect() as connection:
            found = await connection.execute(text("SELECT count(*) FROM oban_jobs WHERE state = 'completed'"))
            return found.scalar_one() == 50

    async with harness.runner(queues={"default": 20, "other": 5}):
        await eventually(lambda: len(holding) == 5)
        await eventually(done)
        assert tight.pool.checkedout() == 5
        for _ in range(3):
            before = await beats()

            async def later(before: int = before) -> bool:
                return await beats() != before

            await eventually(later)
        assert len(holding) == 5
        release.set()
        await eventually(lambda: len(holding) == 20)
    await other.dispose()


async def test_attempts_outlast_others_that_hold_the_whole_pool(
    harness: Harness, tight: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    @job(registry=harness.registry, timeout=0.5)
    async def waits(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    async with harness.runner():
        held = [await tight.connect() for _ in range(5)]
        async with AsyncSession(held[0]) as session:
            enqueue(session, waiting := waits.new())
            await session.commit()
        await held[0].commit()
        job_id = waiting.id
        await eventually(lambda: "waits for a connection: others hold all" in caplog.text)
        for each in held:
            await each.close()
        await harness.becomes(job_id, "completed")


@pytest.mark.parametrize("kind", KINDS)
async def test_attempts_that_wait_for_one_another_do_so_for_a_while_and_no_longer(
    harness: Harness, tight: AsyncEngine, kind: str, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.5)
    together = asyncio.Barrier(5)

    async def beside(job: Job, call: Any) -> Any:
        async with AsyncSession(tight) as session:
            await session.execute(text("SELECT 1"))
            await together.wait()  # now all connections are taken, by those who are about to ask for another
            return await call()

    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def on_loop(session: AsyncSession) -> None:
            await session.execute(text("SELECT 1"))

        made = [on_loop.new() for _ in range(5)]
    else:

        @job(name="worker", registry=harness.registry)
        def in_thread(session: Session) -> None:
            session.execute(text("SELECT 1"))

        made = [in_thread.new() for _ in range(5)]
    await harness.enqueue(*made)

    async with harness.runner(middleware=[beside]):
        await eventually(lambda: len(of(telemetry.JobException)) + len(of(telemetry.JobStop)) == 5)

    failed = of(telemetry.JobException)
    assert failed
    assert all(isinstance(each.error, PoolTimeout) for each in failed)
    assert tight.pool.checkedout() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_an_attempt_that_waits_for_a_connection_can_be_stopped(
    harness: Harness, tight: AsyncEngine, kind: str
) -> None:
    started: list[int] = []

    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def on_loop(job: Job, session: AsyncSession) -> None:
            started.append(job.id)
            await session.execute(text("SELECT pg_sleep(60)"))

    else:

        @job(name="worker", registry=harness.registry)
        def in_thread(job: Job, session: Session) -> None:
            started.append(job.id)
            session.execute(text("SELECT pg_sleep(60)"))

    await harness.enqueue(*(Job("worker") for _ in range(10)))
    async with harness.runner(grace=0):
        await eventually(lambda: len(started) == 10 and tight.pool.checkedout() == 5)
    assert await harness.states() == {"available": 10}
    assert tight.pool.checkedout() == 0


async def test_a_thread_that_waits_for_a_statement_is_interrupted_at_once(harness: Harness) -> None:
    @job(registry=harness.registry, timeout=0.2, backoff=60)
    def sleeps(session: Session) -> None:
        session.execute(text("SELECT pg_sleep(60)"))

    [job_id] = await harness.enqueue(sleeps.new())
    async with harness.runner():
        found = await harness.becomes(job_id, "retryable")
    assert found.errors[0]["error"].startswith("AttemptTimedOut: ")
    sleeping = await harness.sql(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() "
        "AND query = 'SELECT pg_sleep(60)' AND state = 'active'"
    )
    assert sleeping == []


async def test_a_thread_that_was_struck_in_python_leaves_no_connection_behind(harness: Harness) -> None:
    stop = threading.Event()

    @job(registry=harness.registry, timeout=0.2, backoff=60)
    def spins(session: Session) -> None:
        session.execute(text("SELECT 1"))
        while not stop.wait(0.001):
            pass

    ids = await harness.enqueue(*(spins.new() for _ in range(5)))
    async with harness.runner():
        for job_id in ids:
            await harness.becomes(job_id, "retryable")
    assert harness.engine.pool.checkedout() == 0
    stop.set()


async def test_threads_see_a_connection_that_breaks_as_what_it_is(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    @job(registry=harness.registry, backoff=60)
    def breaks(session: Session) -> None:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    [job_id] = await harness.enqueue(breaks.new())
    with caplog.at_level(logging.ERROR):
        async with harness.runner():
            await harness.becomes(job_id, "retryable")
    assert "terminating connection" not in caplog.text
    assert harness.engine.pool.checkedout() == 0


async def test_a_pool_without_limits_needs_no_gate(harness: Harness, database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool)
    together: list[int] = []
    everybody = asyncio.Event()

    @job(registry=harness.registry)
    async def meets(job: Job, session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))
        together.append(job.id)
        if len(together) == 8:
            everybody.set()
        await everybody.wait()

    await harness.enqueue(*(meets.new() for _ in range(8)))
    await harness.drain(sessions=async_sessionmaker(engine))
    assert await harness.states() == {"completed": 8}


# The gate and the clock


async def test_places_are_given_in_turn_and_never_lost() -> None:
    slots = Slots(2)
    order: list[int] = []

    async def enter(n: int) -> None:
        await slots.acquire()
        order.append(n)
        await asyncio.sleep(0)
        slots.release()

    tasks = [asyncio.create_task(enter(n)) for n in range(20)]
    await asyncio.sleep(0)
    for n in (5, 6, 11):
        tasks[n].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [n for n in range(20) if n not in (5, 6, 11)]
    assert (slots.taken, slots.waiting) == (0, 0)


async def test_a_place_that_was_given_to_whoever_left_goes_to_the_next() -> None:
    slots = Slots(1)
    await slots.acquire()
    first, second = asyncio.create_task(slots.acquire()), asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.release()
    first.cancel()
    await second
    assert slots.taken == 1


async def test_places_beyond_are_for_those_who_have_waited() -> None:
    slots = Slots(1, beyond=1)
    await slots.acquire()
    second = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    assert not second.done()
    await second
    third = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    await eventually(lambda: asyncio.get_running_loop().time() >= slots._waiting[0][1])
    assert slots.taken == 2
    slots.release()
    await third
    assert slots.taken == 2


async def test_time_does_not_pass_while_it_is_paused() -> None:
    time_limit, over = TimeLimit(Job("worker"), 0.05), asyncio.Event()
    time_limit.begin(over.set)
    with time_limit.paused():
        await asyncio.sleep(0.1)
        assert not over.is_set()
    await over.wait()


# Idle in a transaction


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_idles_in_a_transaction_is_named_once(
    harness: Harness, of: Any, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    release = threading.Event()
    released = asyncio.Event()

    if kind == "async":

        @job(name="shop.idles", registry=harness.registry)
        async def on_loop(session: AsyncSession) -> None:
            await session.execute(text("SELECT 1"))
            await released.wait()

    else:

        @job(name="shop.idles", registry=harness.registry)
        def in_thread(session: Session) -> None:
            session.execute(text("SELECT 1"))
            release.wait(20)

    @job(name="shop.works", registry=harness.registry)
    async def works(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(1)"))

    [job_id, _] = await harness.enqueue(Job("shop.idles"), Job("shop.works"))
    async with harness.runner(idle_in_transaction_after=0.1):
        await eventually(lambda: of(telemetry.JobIdle))
        await eventually(lambda: [event for event in of(telemetry.JobStop) if event.worker == "shop.works"])
        release.set()
        released.set()
        await harness.becomes(job_id, "completed")
    [said] = of(telemetry.JobIdle)
    assert (said.job_id, said.worker) == (job_id, "shop.idles")
    assert said.idle >= 0.1
    assert caplog.text.count(f"job {job_id} shop.idles has left its connection idle in a transaction for") == 1


async def test_nobody_is_asked_while_no_attempt_holds_a_connection_for_long(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oban_sa.runner.maintenance.idle_transactions import IdleTransactions

    ticked: list[bool] = []
    tick = IdleTransactions.tick

    async def counted(self: IdleTransactions) -> float:
        monkeypatch.setattr(self, "_line", None)  # asking would be an error
        ticked.append(True)
        return await tick(self)

    monkeypatch.setattr(IdleTransactions, "tick", counted)
    monkeypatch.setattr(IdleTransactions, "close", lambda self: asyncio.sleep(0))

    @job(registry=harness.registry)
    async def quick(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    async with harness.runner(idle_in_transaction_after=0.5) as runner:
        await harness.enqueue(quick.new())
        await eventually(lambda: len(ticked) > 3)
        assert runner is not None
    assert await harness.states() == {"completed": 1}
