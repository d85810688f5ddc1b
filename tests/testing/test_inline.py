from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Engine, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Job, enqueue, enqueue_many
from oban_sa.testing import inline
from tests.testing.workers import Echo, add, cancel, fail, follow, follow_sync, registry, snooze


async def test_jobs_have_run_when_the_commit_returns(sessions: async_sessionmaker[AsyncSession]) -> None:
    with inline(registry=registry) as ran:
        async with sessions.begin() as session:
            made = enqueue_many(session, [add.new(1), Echo.new(), cancel.new(), snooze.new()])
            await session.flush()
            assert ran.counts == {}
        assert ran.counts == {"completed": 2, "cancelled": 1, "scheduled": 1}
    async with sessions() as session:
        assert (await session.get_one(Job, made[0].id)).state == "completed"


async def test_jobs_that_are_rolled_back_never_run(sessions: async_sessionmaker[AsyncSession]) -> None:
    with inline(registry=registry) as ran:
        async with sessions() as session:
            enqueue(session, fail.new())
            await session.flush()
            await session.rollback()
            async with session.begin_nested() as savepoint:
                enqueue(session, fail.new())
                await session.flush()
                await savepoint.rollback()
            enqueue(session, add.new(1))
            await session.commit()
    assert ran.counts == {"completed": 1}


async def test_nothing_is_asked_of_the_database_after_a_rollback(
    sessions: async_sessionmaker[AsyncSession], engine: AsyncEngine
) -> None:
    said: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        said.append(statement)

    with inline(registry=registry):
        async with sessions() as session:
            async with session.begin_nested():
                enqueue(session, fail.new())
            said.clear()
            await session.rollback()
        assert said == []


async def test_a_released_savepoint_is_no_commit(sessions: async_sessionmaker[AsyncSession]) -> None:
    with inline(registry=registry) as ran:
        async with sessions() as session:
            async with session.begin_nested():
                enqueue(session, add.new(1))
            assert ran.counts == {}
            await session.rollback()
    assert ran.counts == {}


async def test_it_works_in_a_transaction_that_the_test_rolls_back(session: AsyncSession, engine: AsyncEngine) -> None:
    with inline(registry=registry) as ran:
        made = enqueue(session, follow.new(depth=2))
        await session.commit()
    assert ran.counts == {"completed": 3}
    await session.refresh(made)
    assert made.state == "completed"
    async with engine.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Job)) == 0


async def test_jobs_that_jobs_enqueue_run_too(sessions: async_sessionmaker[AsyncSession]) -> None:
    with inline(registry=registry) as ran:
        async with sessions.begin() as session:
            enqueue_many(session, [follow.new(depth=2), follow_sync.new(depth=1)])
    assert ran.counts == {"completed": 5}


def test_synchronous_sessions_run_their_jobs_too(sync_engine: Engine, sync_session: Session) -> None:
    with inline(registry=registry) as ran:
        with Session(sync_engine) as session, session.begin():
            enqueue_many(session, [add.new(1), follow_sync.new(depth=1), Echo.new()])
        assert ran.counts == {"completed": 4}
        enqueue(sync_session, follow_sync.new(depth=1))
        sync_session.commit()
    assert ran.counts == {"completed": 6}


async def test_a_synchronous_session_runs_them_where_a_loop_is_busy(sync_engine: Engine) -> None:
    with inline(registry=registry) as ran, Session(sync_engine) as session, session.begin():
        enqueue_many(session, [Echo.new(), follow_sync.new(depth=1)])
    assert ran.counts == {"completed": 3}


async def test_what_jobs_raise_spares_the_commit_and_ends_the_block(sessions: async_sessionmaker[AsyncSession]) -> None:
    reached = False
    with pytest.raises(RuntimeError, match="no luck"), inline(registry=registry):
        async with sessions.begin() as session:
            enqueue(session, fail.new())
        reached = True
    assert reached
    with pytest.raises(BaseExceptionGroup) as failure, inline(registry=registry):
        async with sessions.begin() as session:
            enqueue_many(session, [fail.new("a"), fail.new("b")])
    assert [str(error) for error in failure.value.exceptions] == ["a", "b"]


async def test_with_safety_errors_are_kept(sessions: async_sessionmaker[AsyncSession]) -> None:
    with inline(registry=registry, with_safety=True, with_retries=True) as ran:
        async with sessions.begin() as session:
            enqueue(session, fail.new())
    assert ran.counts == {"discarded": 1}
    assert [str(error) for error in ran.errors] == ["no luck"]


async def test_an_error_of_the_block_itself_comes_first(sessions: async_sessionmaker[AsyncSession]) -> None:
    with pytest.raises(ZeroDivisionError), inline(registry=registry):
        async with sessions.begin() as session:
            enqueue(session, fail.new())
        raise ZeroDivisionError


async def test_scheduled_jobs_wait_unless_wanted(sessions: async_sessionmaker[AsyncSession]) -> None:
    for wanted, counts in ((False, {}), (True, {"completed": 1})):
        with inline(registry=registry, with_scheduled=wanted) as ran:
            async with sessions.begin() as session:
                enqueue(session, add.options(schedule_in=60).new(1))
        assert ran.counts == counts


async def test_jobs_enqueued_before_and_after_the_block_wait(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        before = enqueue(session, add.new(1))
    with inline(registry=registry) as ran:
        async with sessions.begin() as session:
            enqueue(session, add.new(1))
    async with sessions.begin() as session:
        after = enqueue(session, add.new(1))
    assert ran.counts == {"completed": 1}
    async with sessions() as session:
        assert set(await session.scalars(select(Job.id).where(Job.state == "available"))) == {before.id, after.id}


async def test_many_sessions_at_once_run_each_job_once(sessions: async_sessionmaker[AsyncSession]) -> None:
    async def one(number: int) -> None:
        async with sessions.begin() as session:
            enqueue(session, add.new(number))

    with inline(registry=registry) as ran:
        await asyncio.gather(*(one(number) for number in range(10)))
    assert ran.counts == {"completed": 10}
