from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Chunk, ChunkResult, Job, enqueue, enqueue_many, job
from oban_sa.errors import InvalidOption, WorkerNotFound
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry
from tests.testing.workers import (
    add,
    cancel,
    fail,
    follow,
    follow_sync,
    record,
    registry,
    snooze,
    where_am_i,
    write_and_fail,
)


async def test_jobs_of_the_open_transaction_run_and_are_taken_back_with_it(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    made = enqueue_many(session, [add.new(1), where_am_i.new(), record.new([1]), cancel.new(), snooze.new()])
    counts = await drain(session, registry=registry)
    assert counts == {"completed": 3, "cancelled": 1, "scheduled": 1}
    assert [each.state for each in made] == ["completed", "completed", "completed", "cancelled", "scheduled"]
    assert made[2].recorded() == [1]
    assert made[3].errors[0]["error"] == "AttemptCancelled: not wanted"
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Job)) == 0


async def test_committed_jobs_run_behind_an_engine(
    sessions: async_sessionmaker[AsyncSession], engine: AsyncEngine
) -> None:
    async with sessions.begin() as session:
        enqueue(session, follow.new(depth=2))
        enqueue(session, follow_sync.new(depth=2))
    assert await drain(engine, registry=registry) == {"completed": 6}


async def test_jobs_that_jobs_enqueue_run_too(session: AsyncSession) -> None:
    enqueue(session, follow.new(depth=3))
    enqueue(session, follow_sync.new(depth=1))
    assert await drain(session, registry=registry) == {"completed": 6}


def test_a_synchronous_session_drains_at_once(sync_session: Session) -> None:
    enqueue_many(sync_session, [follow_sync.new(depth=1), add.new(1), record.new("x"), where_am_i.new()])
    assert drain(sync_session, registry=registry) == {"completed": 5}
    sync_session.rollback()
    assert sync_session.query(Job).count() == 0


def test_a_synchronous_engine_drains_committed_jobs(sync_engine: Engine) -> None:
    with Session(sync_engine) as session, session.begin():
        enqueue(session, follow_sync.new(depth=2))
    assert drain(sync_engine, registry=registry) == {"completed": 3}


def test_code_that_needs_an_asynchronous_session_says_so(sync_session: Session) -> None:
    enqueue(sync_session, follow.new(depth=0))
    with pytest.raises(InvalidOption, match="drain an AsyncEngine or an AsyncSession"):
        drain(sync_session, registry=registry)


async def test_what_a_job_raised_is_recorded_and_raised(session: AsyncSession) -> None:
    failing, after = enqueue_many(session, [fail.new("first"), fail.new("second")])
    with pytest.raises(RuntimeError, match="first"):
        await drain(session, registry=registry)
    assert (failing.state, failing.attempt, after.state) == ("retryable", 1, "available")
    assert "RuntimeError: first" in failing.errors[0]["error"]


async def test_with_safety_it_is_only_recorded(session: AsyncSession) -> None:
    enqueue_many(session, [fail.new("first"), fail.new("second")])
    assert await drain(session, registry=registry, with_safety=True) == {"retryable": 2}


async def test_with_retries_a_job_runs_until_its_attempts_are_spent(session: AsyncSession) -> None:
    made = enqueue(session, fail.new())
    assert await drain(session, registry=registry, with_retries=True, with_safety=True) == {"discarded": 1}
    assert len(made.errors) == 2
    enqueue(session, fail.new())
    with pytest.raises(RuntimeError, match="no luck"):
        await drain(session, registry=registry, with_retries=True)


async def test_a_job_that_succeeds_at_last_raises_nothing(session: AsyncSession) -> None:
    @job(registry=registry, name="twice", max_attempts=3)
    async def twice(job: Job) -> None:
        if job.attempt < 3:
            raise RuntimeError("not yet")

    enqueue(session, twice.new())
    assert await drain(session, registry=registry, with_retries=True) == {"completed": 1}


async def test_jobs_that_are_not_due_wait_unless_wanted(session: AsyncSession) -> None:
    await session.execute(select(1))  # the transaction is older than its jobs
    made = enqueue_many(session, [add.new(1), add.options(schedule_in=3600).new(1), add.options(schedule_in=0).new(1)])
    assert await drain(session, registry=registry) == {"completed": 2}
    assert made[1].state == "scheduled"
    assert await drain(session, registry=registry, with_scheduled=True) == {"completed": 1}


async def test_a_job_that_snoozes_runs_once(session: AsyncSession) -> None:
    made = enqueue(session, snooze.new())
    assert await drain(session, registry=registry, with_scheduled=True, with_retries=True) == {"scheduled": 1}
    assert made.meta == {"snoozed": 1}


async def test_only_the_queues_that_were_asked_for_are_drained(session: AsyncSession) -> None:
    enqueue_many(session, [add.options(queue=queue).new(1) for queue in ("a", "b", "c")])
    assert await drain(session, registry=registry, queue="a") == {"completed": 1}
    assert await drain(session, registry=registry, queue=["a", "b"]) == {"completed": 1}
    assert await drain(session, registry=registry, queue="nothing") == {}


async def test_jobs_run_in_the_order_a_runner_would_take_them(session: AsyncSession) -> None:
    seen: list[int] = []

    @job(registry=registry, name="note")
    async def note(job: Job) -> None:
        seen.append(job.priority)

    enqueue_many(session, [note.options(priority=priority).new() for priority in (2, 0, 1)])
    await drain(session, registry=registry)
    assert seen == [0, 1, 2]


async def test_what_a_failing_job_wrote_in_its_session_is_gone_and_the_rest_is_kept(session: AsyncSession) -> None:
    kept = enqueue(session, Job("other", queue="other"))
    enqueue(session, write_and_fail.new())
    assert await drain(session, registry=registry, queue="default", with_safety=True) == {"retryable": 1}
    assert set(await session.scalars(select(Job.worker).where(Job.queue != "default"))) == {"other"}
    assert kept.state == "available"


async def test_a_transaction_without_a_savepoint_outlives_a_failing_job_too(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.begin()
        await connection.execute(insert(Job).values(worker="other", queue="other"))
        await connection.execute(insert(Job).values(worker=f"{write_and_fail.__module__}.write_and_fail"))
        assert await drain(connection, registry=registry, queue="default", with_safety=True) == {"retryable": 1}
        assert set(await connection.scalars(select(Job.queue))) == {"default", "other"}


def test_the_same_holds_for_synchronous_code(sync_engine: Engine) -> None:
    @job(registry=registry, name="sync_fail")
    def sync_fail(session: Session) -> None:
        session.add(Job("never", queue="never"))
        session.flush()
        raise RuntimeError("after writing")

    with sync_engine.connect() as connection:
        connection.begin()
        connection.execute(insert(Job).values(worker="other", queue="other"))
        connection.execute(insert(Job).values(worker="sync_fail"))
        assert drain(connection, registry=registry, queue="default", with_safety=True) == {"retryable": 1}
        assert set(connection.scalars(select(Job.queue))) == {"default", "other"}


async def test_a_worker_nobody_registered_is_named(session: AsyncSession) -> None:
    enqueue(session, Job("Nobody"))
    with pytest.raises(WorkerNotFound, match="Nobody"):
        await drain(session, registry=registry)


async def test_middleware_stands_around_each_attempt(session: AsyncSession) -> None:
    seen: list[str] = []

    async def middleware(job: Job, call_next: Any) -> Any:
        answer = await call_next()
        seen.append(job.worker.rpartition(".")[2])
        return answer

    enqueue_many(session, [add.new(1), follow.new(depth=0), follow_sync.new(depth=0)])
    assert await drain(session, registry=registry, middleware=[middleware]) == {"completed": 3}
    assert seen == ["add", "follow", "follow_sync"]


async def test_middleware_stands_around_synchronous_sessions_too(sync_session: Session) -> None:
    seen: list[str] = []

    async def middleware(job: Job, call_next: Any) -> Any:
        seen.append(job.worker)
        return await call_next()

    enqueue(sync_session, follow_sync.new(depth=1))
    draining: Any = drain(sync_session, registry=registry, middleware=[middleware])
    assert await draining == {"completed": 2}
    assert len(seen) == 2


async def test_a_drain_that_is_cut_short_gives_its_job_back(
    sessions: async_sessionmaker[AsyncSession], engine: AsyncEngine
) -> None:
    begun = asyncio.Event()

    @job(registry=registry, name="endless")
    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    async with sessions.begin() as session:
        made = enqueue(session, endless.new())
    draining = asyncio.create_task(_drained(engine))
    await begun.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    async with sessions() as session:
        row = await session.get_one(Job, made.id)
        assert (row.state, row.attempt) == ("available", 0)


async def _drained(engine: AsyncEngine) -> None:
    await drain(engine, registry=registry)


def test_what_is_neither_engine_nor_session_is_refused() -> None:
    with pytest.raises(TypeError, match=r"drain\(engine\) for committed jobs"):
        drain("postgresql://")  # type: ignore[call-overload]


async def test_a_drain_makes_chunks_of_the_jobs_that_there_are(session: AsyncSession) -> None:
    chunks: list[list[int]] = []
    mine = Registry()

    @job(registry=mine, chunk=Chunk(3, within="1 hour", by="args.tenant"))
    async def index(jobs: list[Job], session: AsyncSession) -> ChunkResult:
        await session.execute(select(1))
        chunks.append([each.args["n"] for each in jobs])
        return ChunkResult(cancel={each: "unwanted" for each in jobs if each.args["n"] == 4})

    enqueue_many(session, [index.new(n=n, tenant=n % 2) for n in range(8)])
    enqueue(session, index.options(queue="elsewhere").new(n=8, tenant=0))
    assert await drain(session, registry=mine) == {"completed": 8, "cancelled": 1}
    assert sorted(chunks) == [[0, 2, 4], [1, 3, 5], [6], [7], [8]]


def test_chunks_of_synchronous_code_are_drained_too(sync_session: Session) -> None:
    chunks: list[int] = []
    mine = Registry()

    @job(registry=mine, chunk=Chunk(3))
    def index(jobs: list[Job]) -> None:
        chunks.append(len(jobs))

    enqueue_many(sync_session, [index.new(n=n) for n in range(5)])
    assert drain(sync_session, registry=mine) == {"completed": 5}
    assert chunks == [3, 2]


async def test_a_worker_of_chunks_is_performed_with_one_job() -> None:
    mine = Registry()

    @job(registry=mine, chunk=Chunk(3))
    async def index(jobs: list[Job]) -> ChunkResult:
        return ChunkResult(record={each: each.args["n"] for each in jobs})

    result = await perform_job(index, {"n": 7}, registry=mine)
    assert list(result.record.values()) == [7]
