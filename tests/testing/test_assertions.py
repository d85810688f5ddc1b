from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa import Job, enqueue, enqueue_many
from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.testing import all_enqueued, assert_enqueued, refute_enqueued
from tests.testing.workers import Echo, add


async def test_jobs_of_the_open_transaction_are_seen_newest_first(session: AsyncSession) -> None:
    first, second = enqueue(session, Echo.new()), enqueue(session, add.new(1))
    assert await all_enqueued(session) == [second, first]
    assert await all_enqueued(session, worker=Echo) == [first]
    assert await all_enqueued(session, worker="tests.testing.workers.add") == [second]


def test_of_a_synchronous_session_the_answer_comes_at_once(sync_session: Session) -> None:
    made = enqueue(sync_session, Echo.new({"to": "ada"}))
    assert assert_enqueued(sync_session, worker=Echo, args={"to": "ada"}) == [made]
    refute_enqueued(sync_session, worker=add)


async def test_scoped_sessions_are_taken_too(
    sessions: async_sessionmaker[AsyncSession], sync_sessions: sessionmaker[Session]
) -> None:
    scoped = async_scoped_session(sessions, scopefunc=lambda: None)
    enqueue(scoped, Echo.new())
    assert len(await assert_enqueued(scoped, worker=Echo)) == 1
    await scoped.remove()
    direct = scoped_session(sync_sessions)
    enqueue(direct, Echo.new())
    assert len(assert_enqueued(direct, worker=Echo)) == 1
    direct.remove()


async def test_args_are_compared_as_far_as_they_are_given(session: AsyncSession) -> None:
    number = uuid4()
    enqueue(session, Echo.new({"order": {"id": number, "items": [{"n": 1, "x": 2}, {"n": 2}]}, "count": 1}))
    await assert_enqueued(session, args={"order": {"id": number}})
    await assert_enqueued(session, args={"order": {"items": [{"n": 1}, {"n": 2}]}, "count": 1.0})
    await refute_enqueued(session, args={"order": {"items": [{"n": 1}]}})
    await refute_enqueued(session, args={"count": True})
    await refute_enqueued(session, args={"other": None})


async def test_every_other_criterion_counts(session: AsyncSession) -> None:
    enqueue(session, Echo.new({}, queue="slow", priority=3, max_attempts=2, tags=["A", "b"], meta={"by": "me", "n": 1}))
    await assert_enqueued(session, queue="slow", priority=3, max_attempts=2, tags=["a"], meta={"by": "me"})
    await refute_enqueued(session, queue="fast")
    await refute_enqueued(session, priority=0)
    await refute_enqueued(session, max_attempts=20)
    await refute_enqueued(session, tags=["c"])
    await refute_enqueued(session, meta={"by": "you"})


async def test_a_schedule_may_be_a_second_off(session: AsyncSession) -> None:
    enqueue(session, Echo.new(schedule_in="1 hour"))
    await assert_enqueued(session, schedule_in=3600)
    await assert_enqueued(session, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    await refute_enqueued(session, schedule_in=3590)
    await refute_enqueued(session, schedule_in=3610)


async def test_jobs_that_do_not_wait_are_only_seen_when_asked_for(session: AsyncSession) -> None:
    session.add(Job("done", state=JobState.COMPLETED, completed_at=datetime.now(UTC)))
    session.add(Job("late", state=JobState.RETRYABLE, attempt=1))
    session.add(Job("held", state=JobState.SUSPENDED))
    assert [job.worker for job in await all_enqueued(session)] == ["held"]
    assert [job.worker for job in await all_enqueued(session, state="completed")] == ["done"]
    assert len(await all_enqueued(session, state=["completed", "retryable"])) == 2


async def test_a_count_is_exact(session: AsyncSession) -> None:
    enqueue_many(session, [Echo.new(), Echo.new()])
    await assert_enqueued(session, worker=Echo, count=2)
    with pytest.raises(AssertionError, match=r"expected 1 job with worker='.*Echo' to be enqueued, found 2 of 2"):
        await assert_enqueued(session, worker=Echo, count=1)
    await assert_enqueued(session, worker=add, count=0)


async def test_a_failure_shows_the_nearest_jobs_and_in_what_they_differ(session: AsyncSession) -> None:
    enqueue_many(session, [add.new(n) for n in range(6)])
    near = enqueue(session, Echo.new({"to": "bob", "kind": {"a": 1}}, schedule_in=60))
    with pytest.raises(AssertionError) as failure:
        await assert_enqueued(session, worker=Echo, args={"to": "ada", "kind": {"b": 1}}, queue="mail", schedule_in=30)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith('expected a job with worker=\'tests.testing.workers.Echo\', args={"to":"ada"')
    assert lines[0].endswith("found none; enqueued:")
    assert lines[1] == f"  {near}"
    assert "    args.to is 'bob', not 'ada'" in lines
    assert "    args.kind lacks 'b'" in lines
    assert any("seconds after" in line and line.startswith("    scheduled_at is") for line in lines), lines
    assert "    worker is 'tests.testing.workers.add', not 'tests.testing.workers.Echo'" in lines
    assert lines[-1] == "  and 2 more"


async def test_a_failure_says_so_where_nothing_is_enqueued(session: AsyncSession) -> None:
    with pytest.raises(AssertionError, match="nothing is enqueued"):
        await assert_enqueued(session, worker=Echo)


async def test_a_job_that_should_not_be_there_is_shown(session: AsyncSession) -> None:
    made = enqueue(session, Echo.new({"to": "ada"}))
    with pytest.raises(AssertionError) as failure:
        await refute_enqueued(session, worker=Echo)
    assert str(made) in str(failure.value)


async def test_what_others_did_to_a_job_meanwhile_is_seen(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async with sessions() as session:
        made = enqueue(session, Echo.new())
        await session.commit()
        assert await all_enqueued(session) == [made]
        async with engine.begin() as other:
            await other.execute(Job.__table__.update().values(queue="elsewhere"))
        assert await assert_enqueued(session, queue="elsewhere") == [made]


async def test_words_that_do_not_exist_are_refused(session: AsyncSession) -> None:
    with pytest.raises(InvalidOption, match="'quue'; did you mean 'queue'"):
        assert_enqueued(session, quue="mail")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="write one of them"):
        assert_enqueued(session, schedule_in=1, scheduled_at=datetime.now(UTC))
    with pytest.raises(TypeError, match="the session comes first"):
        assert_enqueued(Echo)  # type: ignore[call-overload]
