"""Unique jobs in users' tests: in sessions that are rolled back, and where jobs run here and now."""

from __future__ import annotations

import pytest
from sqlalchemy import func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Unique, Worker, enqueue, enqueue_many, enqueue_select, worker
from oban_sa import job as job_of
from oban_sa.testing import assert_enqueued, drain, inline, perform_job
from oban_sa.workers import Registry

REGISTRY = Registry()
RAN: list[int] = []


@pytest.fixture(autouse=True)
def ran() -> list[int]:
    RAN.clear()
    return RAN


@job_of(registry=REGISTRY, unique=True)
async def once(key: int) -> None:
    RAN.append(key)


@worker(registry=REGISTRY, unique=Unique(keys=["key"], group="waiting"))
class Reindex(Worker):
    async def process(self, job: Job) -> None:
        RAN.append(job.args["key"])


@job_of(registry=REGISTRY, unique=Unique(keys=["key"], group="waiting"))
async def chained(session: AsyncSession, key: int, left: int) -> None:
    RAN.append(left)
    for _ in range(2):
        if left:
            chained.enqueue(session, key, left - 1)


async def count(session: AsyncSession) -> int:
    return await session.scalar(select(func.count()).select_from(Job)) or 0


async def test_a_second_job_is_none_in_a_session_that_is_rolled_back(session: AsyncSession, ran: list[int]) -> None:
    first = once.enqueue(session, 1)
    await session.commit()  # of a savepoint, as a test has it
    second = once.enqueue(session, 1)
    await session.flush()
    assert second.conflict is not None and second.id == first.id
    assert await enqueue_select(session, once, select(literal(1).label("key"))) == 0
    assert await drain(session, registry=REGISTRY) == {"completed": 1}
    third = once.enqueue(session, 1)  # it has completed, and stands in the way
    await session.flush()
    assert third.conflict is not None and third.conflict.state == "completed"
    assert ran == [1]


async def test_what_a_test_rolls_back_leaves_no_key_behind(engine: AsyncEngine) -> None:
    for _ in range(2):
        async with engine.connect() as connection:
            await connection.begin()
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                job = once.enqueue(session, 1)
                await session.commit()
                assert job.conflict is None
            await connection.rollback()
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM oban_sa_uniques")) == 0


async def test_a_rollback_of_the_session_frees_its_keys(session: AsyncSession) -> None:
    once.enqueue(session, 1)
    await session.flush()
    await session.rollback()
    job = once.enqueue(session, 1)
    await session.commit()
    assert job.conflict is None
    assert await count(session) == 1


async def test_what_waits_is_joined_until_it_has_run(session: AsyncSession, ran: list[int]) -> None:
    for _ in range(2):
        made = [Reindex.enqueue(session, {"key": 1}) for _ in range(3)]
        await session.flush()
        assert [job.conflict is None for job in made] == [True, False, False]
        assert await drain(session, registry=REGISTRY) == {"completed": 1}
    assert ran == [1, 1]
    assert await session.scalar(select(func.count()).where(Job.state == "available")) == 0


async def test_a_job_of_the_same_transaction_is_joined_however_long_that_takes(session: AsyncSession) -> None:
    Reindex.enqueue(session, {"key": 1})
    await session.flush()
    # It is due since the transaction began.
    await session.execute(text("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '1 minute'"))
    second = Reindex.enqueue(session, {"key": 1})
    await session.flush()
    assert second.conflict is not None
    assert await count(session) == 1


async def test_jobs_that_jobs_enqueue_are_unique_too(session: AsyncSession, ran: list[int]) -> None:
    chained.enqueue(session, 1, 3)
    assert await drain(session, registry=REGISTRY) == {"completed": 4}
    assert ran == [3, 2, 1, 0]


async def test_a_retry_in_a_session_that_is_rolled_back(session: AsyncSession, engine: AsyncEngine) -> None:
    oban = Oban(engine)
    old = once.enqueue(session, 1)
    await session.flush()
    assert (await oban.cancel_job(old, session=session)).state == "cancelled"
    new = once.enqueue(session, 1)
    await session.flush()
    assert new.conflict is None
    retried = await oban.retry_jobs([old], session=session)
    assert retried == 0 and retried.conflicts[old.id].id == new.id
    await oban.cancel_job(new, session=session)
    assert (await oban.retry_job(old, session=session)).conflict is None
    assert await drain(session, registry=REGISTRY) == {"completed": 1}


async def test_inline_runs_a_job_once_where_a_commit_adds_none(
    sessions: async_sessionmaker[AsyncSession], ran: list[int]
) -> None:
    with inline(registry=REGISTRY) as inlined:
        for _ in range(2):
            async with sessions.begin() as session:
                enqueue_many(session, [once.new(1), once.new(1), once.new(2)])
        assert ran == [1, 2]
        async with sessions.begin() as session:
            Reindex.enqueue(session, {"key": 3})
        async with sessions.begin() as session:
            again = enqueue(session, Reindex.new({"key": 3}))  # the other has run
        assert again.conflict is None
    assert inlined.counts == {"completed": 4}
    assert ran == [1, 2, 3, 3]


async def test_inline_in_a_session_that_is_rolled_back(session: AsyncSession, ran: list[int]) -> None:
    with inline(registry=REGISTRY) as inlined:
        for _ in range(2):
            once.enqueue(session, 1)
            await session.commit()
    assert (inlined.counts, ran) == ({"completed": 1}, [1])


async def test_a_job_that_stood_in_the_way_is_not_run_by_inline(
    sessions: async_sessionmaker[AsyncSession], ran: list[int]
) -> None:
    """It is another transaction's, which has run it or will."""
    async with sessions.begin() as session:
        once.enqueue(session, 1)
    with inline(registry=REGISTRY) as inlined:
        async with sessions.begin() as session:
            once.enqueue(session, 1)
    assert (inlined.counts, ran) == ({}, [])


def test_a_synchronous_session(sync_session: Session) -> None:
    @job_of(registry=REGISTRY, name="sync", unique=True)
    def sync(key: int) -> None:
        RAN.append(key)

    for _ in range(2):
        enqueue_many(sync_session, [sync.new(1), sync.new(1)])
        sync_session.commit()
        drain(sync_session, registry=REGISTRY)
    assert RAN == [1]


async def test_the_code_of_a_unique_job_is_performed_and_claims_nothing(session: AsyncSession, ran: list[int]) -> None:
    once.enqueue(session, 1)
    await session.flush()
    for _ in range(2):
        await perform_job(once, {"key": 1}, registry=REGISTRY)
        await perform_job(once.new(1), registry=REGISTRY)
    assert ran == [1] * 4
    assert await count(session) == 1
    await perform_job(chained, {"key": 1, "left": 1}, session=session, registry=REGISTRY)
    found = list(await session.scalars(select(Job).where(Job.worker.endswith("chained"))))
    assert [job.args["left"] for job in found] == [0]
    await assert_enqueued(session, worker=once, args={"key": 1})


async def test_a_connection_without_a_session_is_drained(engine: AsyncEngine, ran: list[int]) -> None:
    connection: AsyncConnection
    async with engine.connect() as connection:
        await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session, session.begin():
            enqueue_many(session, [once.new(1), once.new(1)])
        assert await drain(connection, registry=REGISTRY) == {"completed": 1}
        await connection.rollback()
    assert ran == [1]
