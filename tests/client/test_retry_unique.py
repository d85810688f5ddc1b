"""A retry of unique jobs: it claims their keys, and leaves those alone in whose way another job stands."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Conflict, Job, JobState, Oban, Unique, enqueue, enqueue_many
from oban_sa.client import Retried
from oban_sa.errors import UniqueBusy
from oban_sa.jobs.unique import Group
from tests.support import eventually

WAITING: Any = Unique(keys=["key"], group="waiting")


def a_job(key: object = 1, unique: Any = True, **options: Any) -> Job:
    return Job("app.Work", args={"key": key}, unique=unique, **options)


async def put(engine: AsyncEngine, job: Job, state: JobState) -> Job:
    """Enqueue a job and give its row a state; the object stays as it was."""
    stored = await Oban(engine).enqueue(job)
    assert stored.conflict is None
    await set_state(engine, stored.id, state)
    return stored


async def set_state(engine: AsyncEngine, job_id: int, state: JobState) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(Job).where(Job.id == job_id).values(state=state))


async def states(engine: AsyncEngine) -> dict[int, JobState]:
    async with AsyncSession(engine) as session:
        return {job.id: job.state for job in await session.scalars(select(Job))}


async def holder(engine: AsyncEngine) -> list[int]:
    async with engine.connect() as connection:
        return list((await connection.execute(text("SELECT job_id FROM oban_sa_uniques ORDER BY job_id"))).scalars())


async def test_a_job_whose_key_is_free_is_retried_and_gets_it(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    old = await put(driven, a_job(), JobState.DISCARDED)
    new = await put(driven, a_job(), JobState.CANCELLED)
    assert await holder(driven) == [new.id]
    retried = await oban.retry_job(old)
    assert (retried.state, retried.conflict) == (JobState.AVAILABLE, None)
    assert await holder(driven) == [old.id]
    conflict = (await oban.enqueue(a_job())).conflict
    assert conflict == Conflict(old.id, JobState.AVAILABLE)


async def test_a_job_does_not_stand_in_its_own_way(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    job = await put(driven, a_job(unique=Unique(group="all")), JobState.COMPLETED)
    assert await oban.retry_jobs(Job.state == JobState.COMPLETED) == 1
    assert (await oban.get_job(job)).state == JobState.AVAILABLE


@pytest.mark.parametrize("state", [JobState.AVAILABLE, JobState.EXECUTING, JobState.COMPLETED])
async def test_a_job_stays_as_it_was_where_another_stands_in_its_way(driven: AsyncEngine, state: JobState) -> None:
    oban = Oban(driven)
    old = await put(driven, a_job(), JobState.DISCARDED)
    new = await put(driven, a_job(), state)
    other = await put(driven, a_job(2), JobState.DISCARDED)
    plain = await put(driven, Job("app.Plain"), JobState.DISCARDED)
    before = await oban.get_job(old)
    retried = await oban.retry_jobs(Job.state == JobState.DISCARDED, attempts=9)
    assert retried == 2 and retried.conflicts == {old.id: Conflict(new.id, state)}
    after = await oban.get_job(old)
    for column in Job.__table__.columns:
        assert getattr(after, column.name) == getattr(before, column.name)
    found = await states(driven)
    assert [found[job.id] for job in (new, other, plain)] == [state, JobState.AVAILABLE, JobState.AVAILABLE]
    one = await oban.retry_job(old)
    assert one.conflict == Conflict(new.id, state) and one.state == JobState.DISCARDED
    await set_state(driven, new.id, JobState.CANCELLED)
    again = await oban.retry_job(old)
    assert again.conflict is None and again.state == JobState.AVAILABLE


@pytest.mark.parametrize(
    ("rule", "state", "blocks"),
    [
        (Unique(), JobState.COMPLETED, True),
        (Unique(group="incomplete"), JobState.COMPLETED, False),
        (Unique(group="incomplete"), JobState.EXECUTING, True),
        (Unique(group="waiting"), JobState.EXECUTING, False),
        (Unique(group="waiting"), JobState.RETRYABLE, True),
        (Unique(group="scheduled"), JobState.AVAILABLE, False),
        (Unique(states=["cancelled", "executing"]), JobState.CANCELLED, True),
        (Unique(states=["executing"], period="1 minute"), JobState.EXECUTING, True),
        (Unique(states=["executing"]), JobState.COMPLETED, False),
    ],
)
async def test_the_states_are_those_that_the_job_was_enqueued_with(
    engine: AsyncEngine, rule: Unique, state: JobState, blocks: bool
) -> None:
    oban = Oban(engine)
    old = await put(engine, a_job(unique=rule), JobState.DISCARDED)
    new = await put(engine, a_job(unique=rule), state)
    retried = await oban.retry_jobs([old.id])
    assert (retried, dict(retried.conflicts)) == ((0, {old.id: Conflict(new.id, state)}) if blocks else (1, {}))


async def test_the_period_is_that_which_the_job_was_enqueued_with(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    old = await put(engine, a_job(unique=Unique(period="1 hour")), JobState.DISCARDED)
    new = await put(engine, a_job(unique=Unique(period="1 hour")), JobState.COMPLETED)
    ago = text(f"UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '59 minutes' WHERE id = {new.id}")
    async with engine.begin() as connection:
        await connection.execute(ago)
    assert await oban.retry_jobs([old]) == 0
    async with engine.begin() as connection:
        await connection.execute(ago)
    assert await oban.retry_jobs([old]) == 1


async def test_of_several_with_one_key_the_newest_is_retried(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    ids = [(await put(driven, a_job(n % 2), JobState.DISCARDED)).id for n in range(20)]
    retried = await oban.retry_jobs(Job.worker == "app.Work")
    assert retried == 2
    assert retried.conflicts == {each: Conflict(ids[18 + n % 2], JobState.AVAILABLE) for n, each in enumerate(ids[:18])}
    assert await holder(driven) == ids[18:]


async def test_of_several_that_another_job_stands_in_the_way_of_none_is(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    ids = [(await put(driven, a_job(), JobState.DISCARDED)).id for _ in range(5)]
    ids += [(await put(driven, a_job(unique=Unique(group="incomplete")), JobState.DISCARDED)).id]
    new = await put(driven, a_job(), JobState.COMPLETED)
    retried = await oban.retry_jobs(ids)
    assert retried == 1
    # The newest asks for those that are incomplete, and is retried; the others find it there.
    assert {conflict.id for conflict in retried.conflicts.values()} == {ids[-1]}
    assert sorted(retried.conflicts) == ids[:-1]
    assert (await states(driven))[new.id] == JobState.COMPLETED


async def test_those_that_would_not_stand_in_each_others_way_are_all_retried(engine: AsyncEngine) -> None:
    rule = Unique(states=["executing"])
    ids = [(await put(engine, a_job(unique=rule), JobState.DISCARDED)).id for _ in range(4)]
    assert await Oban(engine).retry_jobs(ids) == 4


async def test_a_job_whose_key_was_pruned_gets_it_again(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    job = await put(engine, a_job(), JobState.DISCARDED)
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM oban_sa_uniques"))
    assert await oban.retry_jobs([job]) == 1
    assert await holder(engine) == [job.id]


@pytest.mark.parametrize(
    "meta", ['{"unique": true}', '{"unique": "mine"}', "{}", '{"unique": null}', '["unique"]', '{"unique": {"a": 1}}']
)
async def test_what_another_program_has_there_is_no_key(engine: AsyncEngine, meta: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO oban_jobs (worker, state, meta) VALUES ('w', 'discarded', CAST(:meta AS jsonb))"),
            {"meta": meta},
        )
    assert await Oban(engine).retry_jobs(Job.worker == "w") == 1


@pytest.mark.parametrize("kept", [None, "", "ever", "waiting 0s", "waiting x", "executing,never", "1", "\u2028"])
async def test_what_no_one_can_read_means_the_default(engine: AsyncEngine, kept: str | None) -> None:
    assert Unique.of_text(kept) == Unique()
    old = await put(engine, a_job(unique=WAITING), JobState.DISCARDED)
    new = await put(engine, a_job(unique=WAITING), JobState.COMPLETED)
    async with engine.begin() as connection:
        changed = text("UPDATE oban_jobs SET meta = meta || jsonb_build_object('unique_while', CAST(:kept AS text))")
        await connection.execute(changed, {"kept": kept})
    assert (await Oban(engine).retry_jobs([old])).conflicts == {old.id: Conflict(new.id, JobState.COMPLETED)}


@pytest.mark.parametrize("group", ["waiting", "incomplete", "scheduled", "successful", "all"])
@pytest.mark.parametrize("period", [None, 1, 3600, 0.25, 31_536_000.125])
def test_states_and_period_are_kept_as_a_text(group: Group, period: float | None) -> None:
    rule = Unique(group=group, period=period)
    assert Unique.of_text(rule.text) == rule
    listed = Unique(states=["executing", "completed"], period=period)
    assert Unique.of_text(listed.text) == listed
    assert rule.text is None or len(rule.text) < 30
    assert Unique().text is None


# sessions and transactions


async def test_in_a_session_it_is_part_of_its_transaction(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    old = await put(driven, a_job(), JobState.DISCARDED)
    new = await put(driven, a_job(), JobState.DISCARDED)
    async with AsyncSession(driven) as session:
        loaded = await session.get_one(Job, old.id)
        assert await oban.retry_jobs([old], session=session) == 1
        assert loaded.state == JobState.AVAILABLE
        await session.rollback()
    assert await holder(driven) == [new.id]
    assert set((await states(driven)).values()) == {JobState.DISCARDED}


async def test_a_retry_waits_for_a_transaction_that_enqueues_the_same(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    old = await put(driven, a_job(), JobState.DISCARDED)
    for ends, retried in (("rollback", 1), ("commit", 0)):
        await set_state(driven, old.id, JobState.DISCARDED)
        async with AsyncSession(driven) as session:
            new = enqueue(session, a_job())
            await session.flush()
            waiting = asyncio.create_task(oban.retry_jobs([old]))
            await eventually(lambda: blocked(driven))
            await getattr(session, ends)()
            done = await waiting
            assert done == retried
            assert done.conflicts == ({} if retried else {old.id: Conflict(new.id, JobState.AVAILABLE)})


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_job_that_waits_for_a_retry_sees_it(driven: AsyncEngine, times: int) -> None:
    """Its key pointed at the same job before and after."""
    oban = Oban(driven)
    old = await put(driven, a_job(), JobState.CANCELLED)
    for _ in range(times - 1):
        assert await oban.retry_jobs([old]) == 1
        await oban.cancel_job(old)
    async with AsyncSession(driven) as session:
        assert await oban.retry_jobs([old], session=session) == 1
        waiting = asyncio.create_task(oban.enqueue(a_job()))
        await eventually(lambda: blocked(driven))
        await session.commit()
        assert (await waiting).conflict == Conflict(old.id, JobState.AVAILABLE)


async def blocked(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )


async def test_what_waits_in_the_way_starts_after_the_session_that_retried(engine: AsyncEngine) -> None:
    """So that the changes of that session are seen by the run, as where it had enqueued a job."""
    oban = Oban(engine)
    old = await put(engine, a_job(unique=WAITING), JobState.DISCARDED)
    new = await put(engine, a_job(unique=WAITING), JobState.AVAILABLE)
    long_ago = text("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '1 hour'")
    free = text("SELECT id FROM oban_jobs WHERE state = 'available' FOR UPDATE SKIP LOCKED")
    async with engine.begin() as connection:
        await connection.execute(long_ago)
    async with AsyncSession(engine) as session, engine.connect() as runner:
        retried = await oban.retry_jobs([old], session=session)
        assert retried.conflicts == {old.id: Conflict(new.id, JobState.AVAILABLE)}
        assert (await runner.execute(free)).all() == []
        await session.commit()
        assert (await runner.execute(free)).scalars().all() == [new.id]


async def test_keys_that_are_claimed_in_opposite_order_are_busy(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    old = await put(driven, a_job("b"), JobState.DISCARDED)
    async with AsyncSession(driven) as first, AsyncSession(driven) as second:
        enqueue(first, a_job("a"))
        await first.flush()
        enqueue(second, a_job("b"))
        await second.flush()
        with pytest.raises(UniqueBusy):
            await asyncio.wait_for(oban.retry_jobs([old], session=first), 30)
        await second.rollback()
        assert await oban.retry_jobs([old], session=first) == 1
        await first.commit()


async def test_many_retries_and_enqueues_at_once_leave_one_for_each_key(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    for key in range(5):
        for _ in range(4):
            await put(driven, a_job(key), JobState.DISCARDED)

    async def enqueue_all() -> int:
        return await oban.enqueue_many([a_job(key) for key in range(5)])

    calls: list[Callable[[], Any]] = [lambda: oban.retry_jobs(Job.state == JobState.DISCARDED), enqueue_all]
    done = await asyncio.gather(*(call() for call in calls * 5))
    assert sum(done) == 5
    async with AsyncSession(driven) as session:
        available = await session.scalars(select(Job).where(Job.state == JobState.AVAILABLE))
        assert sorted(job.args["key"] for job in available) == list(range(5))


# what it says, and where the rule is written


def test_the_answer_is_a_number_that_knows_more() -> None:
    conflicts = {3: Conflict(17, JobState.AVAILABLE)}
    retried = Retried(2, conflicts)
    assert retried == 2 and retried + 1 == 3 and f"{retried}" == "2" and bool(Retried()) is False
    assert retried.conflicts == conflicts and not Retried(2).conflicts
    conflicts.clear()
    assert len(retried.conflicts) == 1
    assert repr(retried).startswith("Retried(2, conflicts={3: Conflict(id=17")
    copied = pickle.loads(pickle.dumps(retried))
    assert (copied, copied.conflicts) == (2, retried.conflicts)
    with pytest.raises(AttributeError):
        retried.conflicts = {}


async def test_every_way_of_enqueueing_writes_what_a_retry_asks(
    engine: AsyncEngine, sync_engine: Engine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    oban = Oban(engine)
    for number, key in enumerate("abc"):
        if number == 0:
            await oban.enqueue(a_job(key, WAITING))
        elif number == 1:
            await oban.enqueue_many([a_job(key, WAITING), Job("plain")])
        else:
            async with sessions.begin() as session:
                await oban.enqueue_many([a_job(key, WAITING)], session=session)
    with Session(sync_engine) as sync, sync.begin():
        enqueue_many(sync, [a_job("d", WAITING), a_job("e", Unique(period=60)), a_job("f")])
    async with sessions() as session:
        found = await session.scalars(select(Job).where(Job.worker == "app.Work").order_by(Job.id))
        kept = [job.meta.get("unique_while") for job in found]
    assert kept == ["waiting"] * 4 + ["successful 60s", None]


async def test_meta_that_is_part_of_the_key_is_compared_without_what_a_claim_writes(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    rule = Unique(fields=["worker", "meta"], group="waiting")
    first = await oban.enqueue(Job("app.Work", meta={"a": 1}, unique=rule))
    assert set(first.meta) == {"a", "unique", "unique_while"}
    second = await oban.enqueue(Job("app.Work", meta=first.meta, unique=rule))
    assert second.conflict is not None and second.id == first.id
    third = await oban.enqueue(Job("app.Other", meta=first.meta, unique=True))
    assert set(third.meta) == {"a", "unique"}
