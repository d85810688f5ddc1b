"""`schedule_in` is counted by the database's clock, whatever this machine's says, on every way into the table."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import inspect, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import hooks
from oban_sa.bulk.select import enqueue_select
from oban_sa.client import Oban
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from oban_sa.schedule import clock
from oban_sa.sql.expressions import CLOCK
from oban_sa.testing import assert_enqueued
from oban_sa.workers import Registry, job
from tests.places import AppDatabase, User
from tests.support import sync_url

MINUTE = timedelta(minutes=1)


@job(registry=Registry(), name="spans.welcome")
def welcome(user_id: int) -> None: ...


@pytest.fixture(params=[-1, 1], ids=["an-hour-late", "an-hour-early"], autouse=True)
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's clock is an hour off."""
    real = clock.now
    monkeypatch.setattr("oban_sa.schedule.clock.now", lambda: real() + timedelta(hours=request.param))


def moment(session: Session) -> datetime:
    return session.execute(CLOCK).scalar_one().replace(tzinfo=UTC)


def written(session: Session, jobs: list[Job]) -> list[datetime]:
    """What the table holds, read past the objects."""
    columns = Job.__table__.c
    rows = session.execute(select(columns.id, columns.scheduled_at, columns.state))
    found = {row.id: row for row in rows}
    assert {found[job.id].state for job in jobs} == {JobState.SCHEDULED}
    return [found[job.id].scheduled_at for job in jobs]


@pytest.mark.parametrize("way", ["enqueue", "add", "merge", "enqueue_many"])
def test_a_span_is_counted_by_the_database_and_known_after_the_flush(app_db: AppDatabase, way: str) -> None:
    def work(session: Session) -> None:
        made = [Job("w", schedule_in=60), Job("w", schedule_in="1 hour")][: 2 if way == "enqueue_many" else 1]
        before = moment(session)
        with app_db.counting() as statements:
            if way == "merge":
                made = [session.merge(made[0])]
            elif way == "add":
                session.add(made[0])
            elif way == "enqueue":
                enqueue(session, made[0])
            else:
                enqueue_many(session, made)
            session.flush()
            seen = [(each.scheduled_at, each.state) for each in made]
        after = moment(session)
        assert ["INSERT" in each for each in statements] == [True]  # which asks the clock itself
        assert written(session, made) == [at for at, _ in seen]
        assert {state for _, state in seen} == {JobState.SCHEDULED}
        for (at, _), span in zip(seen, (MINUTE, timedelta(hours=1)), strict=False):
            assert type(at) is datetime
            assert at.tzinfo is UTC
            assert before + span <= at <= after + span
        assert not session.dirty

    app_db.run(work)


def test_thousands_of_spans_are_a_few_inserts_beside_jobs_without(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        jobs = [Job("w", schedule_in=60 + n if n % 2 else None) for n in range(2_500)]
        before = moment(session)
        with app_db.counting() as statements:
            enqueue_many(session, jobs)
            session.flush()
        after = moment(session)
        assert ["INSERT" in each and "clock_timestamp" in each for each in statements] == [True]
        assert [each.id for each in jobs] == sorted(each.id for each in jobs)
        assert written(session, jobs[1::2]) == [each.scheduled_at for each in jobs[1::2]]
        assert {each.scheduled_at - timedelta(seconds=60 + n) for n, each in enumerate(jobs) if n % 2} == {
            jobs[1].scheduled_at - timedelta(seconds=61)
        }
        assert before <= jobs[1].scheduled_at - timedelta(seconds=61) <= after
        assert jobs[0].scheduled_at == jobs[0].inserted_at

    app_db.run(work)


def test_a_span_counts_from_the_flush_and_not_from_the_beginning_of_a_long_transaction(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        begun = session.execute(Job.__table__.insert().values(worker="w").returning(Job.inserted_at)).scalar_one()
        before = moment(session)
        (alone,) = enqueue_many(session, [Job("w", schedule_in=0)])
        session.flush()
        several = enqueue_many(session, [Job("w", schedule_in=0), Job("w", schedule_in=0)])
        session.flush()
        assert begun < before <= alone.scheduled_at <= several[0].scheduled_at <= moment(session)
        assert alone.state is JobState.SCHEDULED
        assert alone.inserted_at == begun

    app_db.run(work)


def test_until_the_flush_a_span_is_this_machine_s_estimate(app_db: AppDatabase) -> None:
    made = Job("w", schedule_in=60)
    assert clock.now() < made.scheduled_at <= clock.now() + MINUTE
    assert made.scheduled_at.tzinfo is UTC
    assert made.state is JobState.SCHEDULED


def test_a_moment_set_after_a_span_wins(app_db: AppDatabase) -> None:
    noon = datetime(2030, 1, 2, 12, tzinfo=UTC)

    def work(session: Session) -> None:
        made = enqueue(session, Job("w", schedule_in=60))
        made.scheduled_at = noon
        session.flush()
        assert made.scheduled_at == noon
        assert written(session, [made]) == [noon]

    app_db.run(work)


def test_a_stored_job_that_is_updated_with_a_span_has_it_from_the_database(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        made = enqueue(session, Job("w"))
        session.commit()
        session.refresh(made)
        before = moment(session)
        made.update({"schedule_in": 60, "priority": 1})
        session.flush()
        assert inspect(made).expired_attributes == set()
        assert before + MINUTE <= made.scheduled_at <= moment(session) + MINUTE
        assert type(made.scheduled_at) is datetime
        assert written(session, [made]) == [made.scheduled_at]

    app_db.run(work)


def test_a_span_that_a_hook_gives_is_counted_by_the_database(app_db: AppDatabase) -> None:
    remove = hooks.before_insert(lambda each: each.update({"schedule_in": 60}))
    try:

        def work(session: Session) -> None:
            before = moment(session)
            made = enqueue_many(session, [Job("w"), Job("w")])
            session.flush()
            assert all(before + MINUTE <= at <= moment(session) + MINUTE for at in written(session, made))

        app_db.run(work)
    finally:
        remove()


def test_a_job_whose_flush_failed_still_has_its_span(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(Job("w", id=1))
        session.commit()
        made = Job("w", id=1, schedule_in=60)
        session.add(made)
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        assert isinstance(made.scheduled_at, datetime)
        made.id = 2
        before = moment(session)
        session.add(made)
        session.flush()
        assert before + MINUTE <= made.scheduled_at <= moment(session) + MINUTE

    app_db.run(work)


@pytest.mark.parametrize(
    ("span", "heard"), [(0.3, True), (60, False)], ids=["due-before-a-runner-looks", "due-much-later"]
)
def test_what_is_due_in_a_moment_is_announced_whatever_this_clock_says(
    app_db: AppDatabase, span: float, heard: bool
) -> None:
    def work(session: Session) -> None:
        enqueue(session, Job("w", queue="soon", schedule_in=span))
        session.commit()

    app_db.run(work)
    assert bool(app_db.heard()) is heard


def test_a_statement_of_one_s_own_takes_a_span_as_what_it_is(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        made = enqueue(session, Job("w"))
        session.flush()
        before = moment(session)
        at = Job("w", schedule_in=60).scheduled_at
        session.execute(update(Job).where(Job.id == made.id).values(scheduled_at=at, state="scheduled"))
        assert before + MINUTE <= written(session, [made])[0] <= moment(session) + MINUTE
        assert session.scalar(select(Job.id).where(Job.scheduled_at < at)) == made.id

    app_db.run(work)


def test_the_rows_of_a_select_count_from_the_statement(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(User(email="a"))
        session.flush()
        rows = select(User.id.label("user_id"))
        before = moment(session)
        enqueue_select(session, welcome, rows, schedule_in=60)
        enqueue_select(session, welcome, rows, schedule_in=User.visits * 0 + 60)
        enqueue_select(session, welcome, rows, schedule_in=0)
        after = moment(session)
        first, second, now = session.scalars(select(Job).order_by(Job.id)).all()
        for each in (first, second):
            assert each.state is JobState.SCHEDULED
            assert before + MINUTE <= each.scheduled_at <= after + MINUTE
        assert now.state is JobState.AVAILABLE
        assert before <= now.scheduled_at <= after

    app_db.run(work)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_copied_jobs_count_by_the_database(database_url: str, driver: str) -> None:
    engine: AsyncEngine = create_async_engine(sync_url(database_url, driver))
    jobs = [Job("w", schedule_in=60), Job("w"), Job("w", schedule_in=0), Job("w", attempt=1, schedule_in=60)]
    try:
        async with AsyncSession(engine) as session:
            before = await session.run_sync(moment)
            await Oban(engine).enqueue_many(jobs)
            after = await session.run_sync(moment)
            copied = (await session.scalars(select(Job).order_by(Job.id))).all()
        # The clock was read once, and went on by this machine's stop watch.
        early = timedelta(seconds=1)
        for each, span in ((copied[0], MINUTE), (copied[2], timedelta(0)), (copied[3], MINUTE)):
            assert each.state is JobState.SCHEDULED
            assert before + span <= each.scheduled_at <= after + span + early
        assert copied[1].scheduled_at == copied[1].inserted_at
    finally:
        await engine.dispose()


async def test_update_job_counts_by_the_database(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        made = enqueue(session, Job("w"))
        await session.commit()
        before = await session.run_sync(moment)
        changed = await Oban(engine).update_job(made, {"schedule_in": 60})
        assert before + MINUTE <= changed.scheduled_at <= await session.run_sync(moment) + MINUTE


async def test_a_test_asks_by_the_database_s_clock(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        enqueue_many(session, [Job("w", schedule_in="1 hour"), Job("w", schedule_in="2 hours")])
        await assert_enqueued(session, schedule_in=3600, count=1)
        with pytest.raises(AssertionError, match="scheduled_at is"):
            await assert_enqueued(session, schedule_in=60)


def test_what_is_computed_from_a_span_is_a_plain_moment() -> None:
    at: Any = Job("w", schedule_in=60).scheduled_at
    assert type(at) is Later
    for computed in (at + MINUTE, MINUTE + at, at - MINUTE, at.replace(microsecond=0), at.astimezone(None)):
        assert type(computed) is datetime
    assert type(Later.now(UTC)) is datetime
    assert type(Later.fromisoformat(at.isoformat())) is datetime
    assert at - MINUTE == datetime.fromisoformat(at.isoformat()) - MINUTE
    for again in (pickle.loads(pickle.dumps(at)), copy.copy(at), copy.deepcopy(at)):
        assert (type(again), again, again.span, again.tzinfo) == (Later, at, MINUTE, UTC)


def test_an_estimate_may_stand_in_args(app_db: AppDatabase) -> None:
    at = Job("w", schedule_in=60).scheduled_at

    def work(session: Session) -> None:
        made = enqueue(session, Job("w", args={"at": at, "all": [at]}, meta={"at": at}))
        session.flush()
        session.expire(made)
        assert datetime.fromisoformat(made.args["at"]) == at
        assert made.args["all"] == [made.args["at"]] == [made.meta["at"]]

    app_db.run(work)
