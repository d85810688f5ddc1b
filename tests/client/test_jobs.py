from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    ClauseElement,
    Column,
    Executable,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, aliased, sessionmaker
from sqlalchemy.sql.compiler import SQLCompiler

from oban_sa.client import JobCount, Oban
from oban_sa.errors import (
    InvalidArguments,
    InvalidJob,
    InvalidOption,
    JobNotFound,
    NaiveMoment,
    SchemaMissing,
    SchemaOutdated,
)
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue
from oban_sa.sql.control import by_ids, cancel, delete, retry, update
from tests.clients import Ears, change, ears, one_row, stored
from tests.support import eventually, sync_url

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def oban(driven: AsyncEngine) -> Oban:
    return Oban(driven)


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[Ears]:
    async with ears(database_url) as listening:
        yield listening


async def states(engine: AsyncEngine) -> list[str]:
    async with AsyncSession(engine) as session:
        return list((await session.scalars(select(Job.state).order_by(Job.id))).all())


def in_every_state() -> list[Job]:
    return [Job("w", state=state, attempt=1 if state == JobState.EXECUTING else 0) for state in JobState]


# --- which jobs


async def test_jobs_are_chosen_by_id_object_list_select_and_condition(oban: Oban, driven: AsyncEngine) -> None:
    jobs = await stored(driven, *(Job("w", queue="a") for _ in range(8)), Job("w", queue="b"))
    assert await oban.cancel_jobs(jobs[0].id) == 1
    assert await oban.cancel_jobs(jobs[1]) == 1
    assert await oban.cancel_jobs([jobs[2].id, jobs[3]]) == 2
    assert await oban.cancel_jobs(select(Job).where(Job.id == jobs[4].id)) == 1
    assert await oban.cancel_jobs(Job.id == jobs[5].id) == 1
    assert await oban.cancel_jobs(Job.queue == "a", Job.id > jobs[6].id) == 1
    assert await oban.cancel_jobs(select(Job.id).where(Job.queue == "b")) == 1
    assert await states(driven) == ["cancelled"] * 6 + ["available"] + ["cancelled"] * 2


async def test_a_select_means_what_it_says_with_limits_aliases_joins_and_unions(
    oban: Oban, driven: AsyncEngine
) -> None:
    jobs = await stored(driven, *(Job("w", priority=number) for number in range(6)))
    other = aliased(Job)
    assert await oban.cancel_jobs(select(Job).order_by(Job.priority.desc()).limit(1)) == 1
    assert await oban.cancel_jobs(select(other).where(other.priority == 0)) == 1
    assert await oban.cancel_jobs(select(Job).join(other, other.id == Job.id + 1).where(other.priority == 2)) == 1
    one, two = (select(Job).where(Job.priority == number) for number in (2, 3))
    assert await oban.cancel_jobs(one.union(two)) == 2
    assert await states(driven) == ["cancelled"] * 4 + ["available", "cancelled"]
    assert jobs[4].priority == 4


async def test_nothing_chosen_changes_nothing(oban: Oban, driven: AsyncEngine) -> None:
    await stored(driven, Job("w"))
    assert await oban.cancel_jobs([]) == 0
    assert await oban.delete_jobs(iter(())) == 0
    assert await oban.update_jobs([], changes={"priority": 1}) == 0
    assert await oban.retry_jobs([]) == 0
    assert await states(driven) == ["available"]


@pytest.mark.parametrize(
    ("which", "says"),
    [
        (True, r"Job\.state == 'available'"),
        ("7", "chosen by id"),
        (["7"], "chosen by its id or as a Job"),
        (select(func.count()), r"select\(Job\)"),
        (0, "positive whole number"),
    ],
)
async def test_an_unclear_choice_is_refused_before_anything_happens(
    engine: AsyncEngine, which: object, says: str
) -> None:
    with pytest.raises((InvalidOption, InvalidJob), match=says):
        await Oban(engine).cancel_jobs(which)  # type: ignore[arg-type]


async def test_ids_after_the_first_are_refused_with_the_way_to_write_them(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidOption, match="ids as one list"):
        await Oban(engine).cancel_jobs(1, 2)  # type: ignore[arg-type]


async def test_a_job_that_was_never_enqueued_is_refused(oban: Oban) -> None:
    with pytest.raises(InvalidJob, match="not enqueued yet"):
        await oban.cancel_job(Job("w"))


async def test_one_job_that_is_not_there_is_not_found(oban: Oban) -> None:
    for call in (oban.get_job, oban.retry_job, oban.cancel_job, oban.delete_job):
        with pytest.raises(JobNotFound, match="has the id 77"):
            await call(77)
    with pytest.raises(JobNotFound, match="has the id 77"):
        await oban.update_job(77, {"priority": 1})


async def test_a_job_is_read_whole_and_detached(oban: Oban, driven: AsyncEngine) -> None:
    (job,) = await stored(driven, Job("w", args={"a": [1]}, errors=[{"at": "x", "attempt": 1, "error": "e"}]))
    found = await oban.get_job(job.id)
    assert (found.args, found.errors[0]["error"], found.state) == ({"a": [1]}, "e", JobState.AVAILABLE)
    assert (await oban.get_job(found)).id == job.id


# --- retry


async def test_a_retry_gives_another_attempt_at_once_and_forgets_how_it_ended(
    oban: Oban, driven: AsyncEngine, listening: Ears
) -> None:
    (job,) = await stored(
        driven,
        Job("w", queue="mailers", state=JobState.DISCARDED, attempt=3, max_attempts=3, discarded_at=PAST,
            cancelled_at=PAST, completed_at=PAST, scheduled_at=PAST,
            meta={"cancel_attempted_at": "2020-01-01T00:00:00", "uniq_bmp": [1, 2], "kept": 1}),
    )  # fmt: skip
    retried = await oban.retry_job(job.id)
    assert retried.state == JobState.AVAILABLE
    assert (retried.attempt, retried.max_attempts) == (3, 4)
    assert (retried.discarded_at, retried.cancelled_at, retried.completed_at) == (None, None, None)
    assert retried.scheduled_at > PAST
    assert retried.meta == {"kept": 1, "uniq_bmp": []}
    assert await listening.heard() == [("insert", {"queue": "mailers"})]


async def test_a_retry_leaves_max_attempts_where_one_is_left(oban: Oban, driven: AsyncEngine) -> None:
    (job,) = await stored(driven, Job("w", state=JobState.RETRYABLE, attempt=1, max_attempts=20))
    retried = await oban.retry_job(job)
    assert (retried.max_attempts, retried.meta) == (20, {})


async def test_a_retry_gives_as_many_attempts_as_are_asked_for(oban: Oban, driven: AsyncEngine) -> None:
    one, two = await stored(driven, *(Job("w", state="discarded", attempt=3, max_attempts=3) for _ in range(2)))
    assert (await oban.retry_job(one, attempts=5)).max_attempts == 8
    assert await oban.retry_jobs([two], attempts=2) == 1
    assert (await oban.get_job(two)).max_attempts == 5
    with pytest.raises(InvalidJob, match="attempts must be between 1 and 10,000, got 0"):
        await oban.retry_jobs([two], attempts=0)


async def test_jobs_available_or_executing_are_not_retried(oban: Oban, driven: AsyncEngine, listening: Ears) -> None:
    jobs = await stored(driven, *in_every_state())
    assert await listening.heard() == [("insert", {"queue": "default"})]
    before = await oban.get_job(jobs[0].id)
    assert await oban.retry_jobs(select(Job)) == len(JobState) - 2
    assert (await oban.get_job(jobs[0].id)).scheduled_at == before.scheduled_at
    assert await states(driven) == ["executing" if job.state == JobState.EXECUTING else "available" for job in jobs]
    assert await listening.heard() == [("insert", {"queue": "default"})]


async def test_a_retry_of_many_announces_each_queue_once(oban: Oban, driven: AsyncEngine, listening: Ears) -> None:
    await stored(driven, *(Job("w", queue=queue, state=JobState.COMPLETED) for queue in "abab"))
    assert await oban.retry_jobs(Job.state == JobState.COMPLETED) == 4
    assert sorted(await listening.heard(), key=str) == [("insert", {"queue": "a"}), ("insert", {"queue": "b"})]


async def test_nothing_is_announced_where_announcements_are_off(driven: AsyncEngine, listening: Ears) -> None:
    quiet = Oban(driven, announce=False)
    job = await quiet.enqueue(Job("w"))
    await quiet.enqueue_many([Job("w")])
    await quiet.enqueue_many([Job("w", attempt=1)])
    await quiet.cancel_job(job)
    await quiet.retry_job(job)
    await quiet.update_job(job, {"queue": "other"})
    assert await listening.heard() == []


@pytest.mark.parametrize("statement", [cancel, retry, lambda wanted: update(wanted, {"priority": 1}), delete])
async def test_jobs_chosen_by_id_are_found_by_it_in_a_table_of_any_size(engine: AsyncEngine, statement: Any) -> None:
    await Oban(engine).enqueue_many(Job("w") for _ in range(20_000))
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE oban_jobs"))
        parameters = {"ids": [7, 8, 9], "signal": "s", "insert": "i"}
        plan = (await connection.execute(Explained(statement(by_ids())), parameters)).scalar_one()
    scans = [step["Node Type"] for step in _steps(plan if isinstance(plan, list) else json.loads(plan))]
    assert "Index Scan" in scans
    assert "Seq Scan" not in scans


class Explained(Executable, ClauseElement):
    """`EXPLAIN (FORMAT JSON)` of a statement."""

    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(Explained)
def _render_explained(element: Explained, compiler: SQLCompiler, **kw: object) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **kw)}"


def _steps(plan: Any) -> Iterator[dict[str, Any]]:
    """Every step of a plan that reads the table of jobs."""
    if isinstance(plan, list):
        for each in plan:
            yield from _steps(each.get("Plan", each))
        return
    if plan.get("Relation Name") == "oban_jobs" and plan["Node Type"] != "ModifyTable":
        yield plan
    yield from _steps(plan.get("Plans", []))


# --- cancel


async def test_a_cancelled_job_that_had_not_begun_has_ended(oban: Oban, driven: AsyncEngine, listening: Ears) -> None:
    (job,) = await stored(driven, Job("w", state=JobState.RETRYABLE, attempt=1))
    cancelled = await oban.cancel_job(job)
    assert cancelled.state == JobState.CANCELLED
    assert cancelled.cancelled_at is not None
    asked = datetime.fromisoformat(cancelled.meta["cancel_attempted_at"])
    assert asked.tzinfo is None
    assert abs(asked.replace(tzinfo=UTC) - cancelled.cancelled_at) < timedelta(seconds=1)
    assert await listening.heard() == []


async def test_an_executing_job_is_marked_and_its_node_signalled(
    oban: Oban, driven: AsyncEngine, listening: Ears
) -> None:
    jobs = await stored(driven, *(Job("w", state=JobState.EXECUTING, attempt=1) for _ in range(2)))
    cancelled = await oban.cancel_job(jobs[0])
    assert (cancelled.state, cancelled.cancelled_at) == (JobState.EXECUTING, None)
    assert set(cancelled.meta) == {"cancel_attempted_at"}
    assert await listening.heard() == [("signal", {"action": "pkill", "job_id": jobs[0].id})]
    assert await oban.cancel_jobs(jobs) == 2
    assert len(await listening.heard()) == 2


async def test_every_job_that_has_not_ended_is_cancelled(oban: Oban, driven: AsyncEngine) -> None:
    jobs = await stored(driven, *in_every_state())
    assert await oban.cancel_jobs(select(Job)) == 5
    ended = {JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED, JobState.EXECUTING}
    assert await states(driven) == [job.state if job.state in ended else "cancelled" for job in jobs]


async def test_meta_that_is_null_as_elixir_allows_takes_the_mark(driven: AsyncEngine, oban: Oban) -> None:
    (job,) = await stored(driven, Job("w"))
    async with driven.begin() as connection:
        await connection.execute(text("ALTER TABLE oban_jobs ALTER meta DROP NOT NULL"))
        await connection.execute(text("UPDATE oban_jobs SET meta = NULL"))
    assert "cancel_attempted_at" in (await oban.cancel_job(job)).meta
    async with driven.begin() as connection:
        await connection.execute(text("UPDATE oban_jobs SET meta = NULL"))
    assert (await oban.retry_job(job)).meta == {}


async def test_a_job_that_a_runner_takes_meanwhile_is_signalled_and_not_ended(
    oban: Oban, driven: AsyncEngine, engine: AsyncEngine, listening: Ears
) -> None:
    (job,) = await stored(driven, Job("w"))
    await listening.heard()
    async with engine.begin() as runner:
        await runner.execute(text("UPDATE oban_jobs SET state = 'executing', attempt = 1"))
        cancelling = asyncio.create_task(oban.cancel_jobs(Job.queue == "default"))
        await eventually(lambda: _waits(engine))
    assert await cancelling == 1
    assert await states(driven) == ["executing"]
    assert await listening.heard() == [("signal", {"action": "pkill", "job_id": job.id})]


async def test_a_job_that_ends_meanwhile_stays_as_it_ended(
    oban: Oban, driven: AsyncEngine, engine: AsyncEngine, listening: Ears
) -> None:
    await stored(driven, Job("w", state=JobState.EXECUTING, attempt=1))
    async with engine.begin() as runner:
        await runner.execute(text("UPDATE oban_jobs SET state = 'completed'"))
        cancelling = asyncio.create_task(oban.cancel_jobs(select(Job)))
        await eventually(lambda: _waits(engine))
    assert await cancelling == 0
    assert await states(driven) == ["completed"]
    assert await listening.heard() == []


async def test_a_deadlock_with_others_is_tried_again(oban: Oban, driven: AsyncEngine, engine: AsyncEngine) -> None:
    jobs = await stored(driven, Job("w"), Job("w"))
    async with engine.begin() as other:
        await other.execute(text("SET LOCAL deadlock_timeout = '30s'"))
        lock = text("SELECT id FROM oban_jobs WHERE id = :id FOR UPDATE")
        await other.execute(lock, {"id": jobs[1].id})
        cancelling = asyncio.create_task(oban.cancel_jobs(select(Job)))
        await eventually(lambda: _waits(engine))
        # Ours holds the first and waits for the second: now each waits for the other, and ours is the one ended.
        await other.execute(lock, {"id": jobs[0].id})
    assert await cancelling == 2


async def _waits(engine: AsyncEngine) -> bool:
    row = await one_row(
        engine,
        "SELECT count(*) AS n FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE NOT granted AND datname = current_database()",
    )
    return row["n"] > 0


# --- delete


async def test_an_executing_job_is_never_deleted(oban: Oban, driven: AsyncEngine) -> None:
    await stored(driven, *in_every_state())
    assert await oban.delete_jobs(select(Job)) == len(JobState) - 1
    assert await states(driven) == ["executing"]


async def test_deleting_one_job_says_whether_it_is_gone(oban: Oban, driven: AsyncEngine) -> None:
    jobs = await stored(driven, Job("w"), Job("w", state=JobState.EXECUTING, attempt=1))
    assert await oban.delete_job(jobs[0].id) is True
    assert await oban.delete_job(jobs[1].id) is False
    with pytest.raises(JobNotFound):
        await oban.delete_job(jobs[0].id)


# --- update


async def test_an_update_changes_what_it_names_and_returns_the_job(oban: Oban, driven: AsyncEngine) -> None:
    (job,) = await stored(driven, Job("w", args={"a": 1}, meta={"m": 1}, tags=["old"]))
    changed = await oban.update_job(
        job, {"args": {"b": PAST}, "tags": [" New "], "priority": 3, "worker": "v", "max_attempts": 4, "meta": {"n": 2}}
    )
    assert changed.args == {"b": PAST.isoformat()}
    assert (changed.tags, changed.priority, changed.worker, changed.max_attempts) == (["new"], 3, "v", 4)
    assert (changed.meta, changed.queue) == ({"n": 2}, "default")


async def test_an_update_is_checked_before_anything_is_changed(oban: Oban, driven: AsyncEngine) -> None:
    (job,) = await stored(driven, Job("w"))
    for changes, says in [
        ({"priority": 10}, "between 0 and 9"),
        ({"prioritty": 1}, "did you mean 'priority'"),
        ({"queue": " "}, "blank"),
        ({"state": "completed"}, "can't be updated"),
    ]:
        with pytest.raises(InvalidJob, match=says):
            await oban.update_job(job, changes)
    with pytest.raises(InvalidJob, match="a dict"):
        await oban.update_job(job, [("priority", 1)])  # type: ignore[arg-type]
    with pytest.raises(InvalidArguments) as refused:
        await oban.update_jobs(select(Job), changes={"args": {"items": [{"price": float("nan")}]}})
    assert refused.value.path == "args.items[0].price"
    with pytest.raises(InvalidArguments, match="can't hold ref"):
        await oban.update_job(job, {"args": {"user": ref(job)}})
    assert await oban.update_jobs(select(Job), changes={}) == 0


async def test_attempts_already_made_limit_what_max_attempts_may_be(oban: Oban, driven: AsyncEngine) -> None:
    jobs = await stored(driven, Job("w", attempt=5), Job("w", attempt=1))
    with pytest.raises(InvalidJob, match="at attempt 5 already"):
        await oban.update_jobs(select(Job), changes={"max_attempts": 4})
    assert [(await oban.get_job(job)).max_attempts for job in jobs] == [20, 20]
    assert await oban.update_jobs(select(Job), changes={"max_attempts": 5}) == 2


async def test_a_schedule_decides_by_the_databases_clock_what_is_available(
    oban: Oban, driven: AsyncEngine, listening: Ears
) -> None:
    (job,) = await stored(driven, Job("w"))
    await listening.heard()
    assert (await oban.update_job(job, {"schedule_in": "1 hour"})).state == JobState.SCHEDULED
    row = await one_row(driven, "SELECT extract(epoch FROM scheduled_at - timezone('UTC', now())) AS s FROM oban_jobs")
    assert 3590 < row["s"] <= 3600
    assert await listening.heard() == []
    assert (await oban.update_job(job, {"scheduled_at": PAST})).state == JobState.AVAILABLE
    assert await listening.heard() == [("insert", {"queue": "default"})]
    with pytest.warns(NaiveMoment) as told:
        assert (await oban.update_job(job, {"scheduled_at": datetime(2999, 1, 1)})).state == JobState.SCHEDULED
    assert told[0].filename == __file__


async def test_a_span_is_not_counted_by_this_machines_clock(
    oban: Oban, driven: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = await stored(driven, Job("w"))
    monkeypatch.setattr("oban_sa.schedule.clock.now", lambda: datetime(1999, 1, 1, tzinfo=UTC))
    assert (await oban.update_job(job, {"schedule_in": 60})).state == JobState.SCHEDULED


async def test_an_available_job_moved_to_another_queue_is_announced_there(
    oban: Oban, driven: AsyncEngine, listening: Ears
) -> None:
    jobs = await stored(driven, Job("w"), Job("w", state=JobState.COMPLETED))
    await listening.heard()
    assert await oban.update_jobs(jobs, changes={"queue": "other"}) == 2
    assert await listening.heard() == [("insert", {"queue": "other"})]


# --- inside the caller's session


async def test_inside_a_session_a_change_lives_and_dies_with_its_transaction(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], listening: Ears
) -> None:
    oban = Oban(engine)
    (job,) = await stored(engine, Job("w", state=JobState.EXECUTING, attempt=1))
    async with sessions() as session:
        assert await oban.cancel_jobs([job.id], session=session) == 1
        await oban.pause_queue("default", session=session)
        await session.rollback()
    assert (await oban.get_job(job.id)).meta == {}
    assert await listening.heard() == []
    async with sessions.begin() as session:
        assert await oban.cancel_jobs([job.id], session=session) == 1
        assert await listening.heard() == []
    assert [message["action"] for _, message in await listening.heard()] == ["pkill"]


async def test_a_pending_job_is_flushed_and_can_be_changed_at_once(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async with sessions.begin() as session:
        job = enqueue(session, Job("w"))
        assert await Oban(engine).cancel_job(job, session=session) is job
        assert job.state == JobState.CANCELLED


async def test_jobs_that_the_session_holds_are_brought_up_to_date_and_not_expired(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    oban = Oban(engine)
    await stored(engine, *(Job("w") for _ in range(3)))
    async with sessions.begin() as session:
        one, two, three = (await session.scalars(select(Job).order_by(Job.id))).all()
        assert await oban.cancel_jobs(Job.id == one.id, session=session) == 1
        assert one.state == JobState.CANCELLED  # an expired one would raise MissingGreenlet here
        assert await oban.update_jobs([two], changes={"priority": 7}, session=session) == 1
        assert two.priority == 7
        assert await oban.delete_jobs([three.id], session=session) == 1
        assert three not in session
        assert (await oban.retry_job(one, session=session)) is one
        assert one.state == JobState.AVAILABLE


async def test_a_synchronous_session_will_do(engine: AsyncEngine, sync_sessions: sessionmaker[Session]) -> None:
    oban = Oban(engine)
    with sync_sessions.begin() as session:
        job = enqueue(session, Job("w"))
        session.flush()
        assert await oban.cancel_jobs(select(Job), session=session) == 1
        assert job.state == JobState.CANCELLED
        assert await oban.delete_jobs(select(Job), session=session) == 1


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
async def test_every_synchronous_driver_speaks_the_statements(
    engine: AsyncEngine, database_url: str, driver: str
) -> None:
    oban = Oban(engine)
    other = create_engine(sync_url(database_url, driver))
    try:
        with Session(other) as session, session.begin():
            jobs = [enqueue(session, Job("w")) for _ in range(2)]
            assert await oban.cancel_jobs(jobs, session=session) == 2
            assert await oban.retry_jobs(select(Job), session=session) == 2
            changes = {"args": {"a": 1}, "schedule_in": 60, "max_attempts": 3, "tags": ["x"]}
            assert await oban.update_jobs(jobs, changes=changes, session=session) == 2
            await oban.start_queue("default", limit=3, session=session)
            assert [job.state for job in jobs] == [JobState.SCHEDULED] * 2
            assert await oban.delete_jobs(jobs, session=session) == 2
    finally:
        other.dispose()


async def test_something_else_than_a_session_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(TypeError, match=r"sessions\.begin"):
        await Oban(engine).cancel_jobs([1], session=engine)  # type: ignore[arg-type]


async def test_a_two_phase_transaction_changes_without_notifying(engine: AsyncEngine, database_url: str) -> None:
    (job,) = await stored(engine, Job("w", state=JobState.EXECUTING, attempt=1))
    other = create_engine(sync_url(database_url, "psycopg2"))
    try:
        with Session(other, twophase=True) as session:
            assert await Oban(engine).cancel_jobs([job.id], session=session) == 1
            session.prepare()
            session.commit()
    except Exception as error:
        if "max_prepared_transactions" not in str(error):
            raise
        pytest.skip("this server allows no prepared transactions")
    finally:
        other.dispose()


# --- another schema


async def test_two_schemas_in_one_process_are_kept_apart(engine: AsyncEngine, database_url: str) -> None:
    await _second_schema(engine)
    here, there = Oban(engine), Oban(engine, schema="jobs")
    async with ears(database_url, "jobs") as listening:
        job = await there.enqueue(Job("w", queue="far"))
        await there.enqueue_many([Job("w", queue="near")])
        await there.cancel_job(job.id)
        await there.retry_job(job.id)
        await there.update_job(job.id, {"args": {"x": 1}, "max_attempts": 7})
        await there.pause_queue("far")
        heard = await listening.heard()
    assert [message.get("queue") for _, message in heard] == ["far", "near", "far", "far"]
    assert await there.count_jobs() == [
        JobCount(JobState.AVAILABLE, "far", 1, True),
        JobCount(JobState.AVAILABLE, "near", 1, True),
    ]
    assert await here.count_jobs() == []
    assert await there.delete_jobs(select(Job)) == 2
    assert (await one_row(engine, "SELECT count(*) AS n FROM jobs.oban_sa_queues"))["n"] == 1


async def test_a_session_keeps_the_map_of_its_own_schemas(engine: AsyncEngine) -> None:
    await _second_schema(engine)
    there = Oban(engine, schema="jobs")
    job = await there.enqueue(Job("w"))
    await there.enqueue(Job("w"))
    mapped = engine.execution_options(schema_translate_map={None: "tenant"})
    orders = Table("orders", MetaData(), Column("job_id", BigInteger))
    async with AsyncSession(mapped) as session, session.begin():
        await session.execute(text("CREATE SCHEMA tenant"))
        await session.execute(
            text("CREATE TABLE tenant.orders AS SELECT CAST(:id AS bigint) AS job_id"), {"id": job.id}
        )
        assert await there.cancel_jobs(Job.id == orders.c.job_id, session=session) == 1
    assert (await there.get_job(job)).state == JobState.CANCELLED


async def _second_schema(engine: AsyncEngine) -> None:
    from oban_sa.migrations import migrate

    async with engine.connect() as connection:
        await connection.run_sync(migrate, "jobs")
        await connection.commit()


# --- counting, verifying, making


async def test_counts_are_exact_to_a_limit_and_estimated_past_it(oban: Oban, driven: AsyncEngine) -> None:
    await oban.enqueue_many(Job("w", queue="many") for _ in range(300))
    await stored(driven, Job("w", queue="it's", state=JobState.COMPLETED), Job("w", queue="many", schedule_in=60))
    async with driven.begin() as connection:
        await connection.execute(text("ANALYZE oban_jobs"))
    exact = await oban.count_jobs()
    assert sorted((count.state, count.queue, count.count, count.exact) for count in exact) == [
        ("available", "many", 300, True),
        ("completed", "it's", 1, True),
        ("scheduled", "many", 1, True),
    ]
    estimated = {(count.state, count.queue): count for count in await oban.count_jobs(exactly_to=50)}
    most = estimated[JobState.AVAILABLE, "many"]
    assert not most.exact
    assert 250 <= most.count <= 350
    assert estimated[JobState.COMPLETED, "it's"].exact
    assert await oban.count_jobs(exactly_to=300) == exact


async def test_all_that_is_estimated_is_asked_for_together_and_each_has_its_own_number(
    oban: Oban, driven: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"a": 40, "it's": 200, "c": 90, "few": 3}
    await stored(driven, *(Job("w", queue=queue) for queue, number in numbers.items() for _ in range(number)))
    async with driven.begin() as connection:
        await connection.execute(text("ANALYZE oban_jobs"))
    asked: list[str] = []
    event.listen(driven.sync_engine, "before_cursor_execute", lambda _c, _u, statement, *_: asked.append(statement))
    for at_once, statements in ((100, 1), (2, 2), (1, 3)):
        monkeypatch.setattr("oban_sa.client.jobs._ESTIMATED", at_once)
        asked.clear()
        found = {(each.state.value, each.queue): each for each in await oban.count_jobs(exactly_to=10)}
        assert sum(statement.startswith("EXPLAIN") for statement in asked) == statements
        expected = {("available", queue): number for queue, number in numbers.items()}
        assert found.keys() == expected.keys()
        assert found.pop(("available", "few")) == JobCount(JobState.AVAILABLE, "few", 3, True)
        for each, count in found.items():
            assert not count.exact
            assert expected[each] * 0.9 <= count.count <= expected[each] * 1.1, (each, count.count)


async def test_counting_is_not_compiled_and_leaves_the_connection_as_it_was(oban: Oban, driven: AsyncEngine) -> None:
    seen: list[str] = []

    @event.listens_for(driven.sync_engine, "before_cursor_execute")
    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "RECURSIVE" in statement:
            other = connection.connection.cursor()
            other.execute("SELECT current_setting('jit') || ' ' || current_setting('enable_seqscan')")
            seen.append(other.fetchall()[0][0])

    async with driven.begin() as connection:
        before = (await connection.execute(text("SELECT current_setting('enable_seqscan')"))).scalar_one()
    await oban.count_jobs()
    async with driven.begin() as connection:
        after = (await connection.execute(text("SELECT current_setting('enable_seqscan')"))).scalar_one()
    assert seen == ["off off"]
    assert before == after == "on"


async def test_verifying_says_what_is_missing(engine: AsyncEngine, empty_database_url: str) -> None:
    await Oban(engine).verify()
    with pytest.raises(SchemaMissing, match="'jobs' has no table oban_jobs"):
        await Oban(engine, schema="jobs").verify()
    async with engine.begin() as connection:
        await connection.execute(text("COMMENT ON TABLE oban_sa_queues IS 'oban_sa 0'"))
        await connection.execute(text("DROP TABLE oban_sa_crons"))
    with pytest.raises((SchemaMissing, SchemaOutdated), match="oban_sa_crons"):
        await Oban(engine).verify()


async def test_the_client_takes_asynchronous_engines_on_postgresql_alone(
    engine: AsyncEngine, database_url: str
) -> None:
    made = create_engine(sync_url(database_url))
    with pytest.raises(InvalidOption, match=r"enqueue\(session, job\)"):
        Oban(made)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="create_async_engine"):
        Oban(database_url)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="the engine that it came from"):
        Oban(async_sessionmaker(engine))  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="name is"):
        Oban(engine, name=" ")
    with pytest.raises(InvalidOption, match="schema is"):
        Oban(engine, schema="")


async def test_a_password_never_shows(engine: AsyncEngine) -> None:
    shown = repr(Oban(create_async_engine("postgresql+asyncpg://me:secret@localhost/x")))
    assert "localhost" in shown
    assert "secret" not in shown


async def test_an_engine_on_autocommit_changes_all_or_nothing(database_url: str, engine: AsyncEngine) -> None:
    loose = create_async_engine(database_url, isolation_level="AUTOCOMMIT")
    try:

        def broken():  # type: ignore[no-untyped-def]
            for _ in range(3_000):
                yield Job("w")
            raise RuntimeError("the source broke")

        with pytest.raises(RuntimeError, match="the source broke"):
            await Oban(loose).enqueue_many(broken())
        assert await states(engine) == []
        with pytest.raises(JobNotFound):
            await Oban(loose).update_job(1, {"priority": 1})
    finally:
        await loose.dispose()


async def test_enqueueing_one_job_stores_and_announces_it(oban: Oban, driven: AsyncEngine, listening: Ears) -> None:
    job = await oban.enqueue(Job("w", args={"a": 1}))
    assert job.id > 0
    assert job.state == JobState.AVAILABLE
    assert await states(driven) == ["available"]
    assert await listening.heard() == [("insert", {"queue": "default"})]
    await change(driven, job.id, priority=2)
    assert (await oban.get_job(job)).priority == 2
