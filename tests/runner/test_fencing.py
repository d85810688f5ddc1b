"""Only the attempt that holds a job may say how it ended."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, job, telemetry
from tests.runner.conftest import House

TAKEN_OVER = """
UPDATE oban_jobs SET attempt = attempt + 1, attempted_by = ARRAY['other.node', 'other-uuid'] WHERE id = :id
"""
CANCELLED = "UPDATE oban_jobs SET state = 'cancelled', cancelled_at = timezone('UTC', now()) WHERE id = :id"
RESCUED = "UPDATE oban_jobs SET state = 'available' WHERE id = :id"
SAME_NODE_AGAIN = "UPDATE oban_jobs SET attempt = attempt + 1 WHERE id = :id"
ANOTHER_HOLDER = "UPDATE oban_jobs SET attempted_by = ARRAY['other.node', 'other-uuid'] WHERE id = :id"


def unfenced(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in ("state", "attempt", "attempted_by", "errors", "meta", "completed_at")}


@pytest.mark.parametrize("change", [TAKEN_OVER, CANCELLED, RESCUED, SAME_NODE_AGAIN, ANOTHER_HOLDER])
@pytest.mark.parametrize("answer", [None, Record(1), Snooze(5), Cancel("no"), ValueError("late")])
@pytest.mark.usefixtures("undecided")  # nobody tells the job that it is lost before it has an answer
async def test_an_outcome_that_comes_after_its_job_was_lost_changes_nothing(house: House, of, change, answer) -> None:
    rows: list[dict[str, object]] = []

    @job(registry=house.registry, cancel="ask")  # so that it comes to its end although a cancel is seen
    async def late(job: Job) -> object:
        await house.sql("UPDATE oban_jobs SET queue = 'elsewhere' WHERE id = :id", id=job.id)
        await house.sql(change, id=job.id)
        rows.append(unfenced((await house.job(job.id)).__dict__))
        if isinstance(answer, Exception):
            raise answer
        return answer

    [job_id] = await house.enqueue(late.new())
    async with house.runner():
        await house_saw(of, telemetry.JobStale)
    assert unfenced((await house.job(job_id)).__dict__) == rows[0]
    assert [event.job_id for event in of(telemetry.JobStale)] == [job_id]


async def house_saw(of, kind: type[telemetry.Event]) -> None:
    from tests.support import eventually

    await eventually(lambda: of(kind))


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_that_lost_its_job_leaves_no_effects(house: House, of, kind: str) -> None:
    await house.sql("CREATE TABLE effects (n int)")

    @job(name="worker", registry=house.registry)
    async def in_async(job: Job, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO effects VALUES (1)"))
        await house.sql(TAKEN_OVER, id=job.id)
        await house.sql("UPDATE oban_jobs SET queue = 'elsewhere' WHERE id = :id", id=job.id)

    if kind == "sync":
        house.registry.__init__()

        @job(name="worker", registry=house.registry)
        def in_sync(job: Job, session: Session) -> None:
            session.execute(text("INSERT INTO effects VALUES (1)"))
            session.commit()  # a worker may commit by itself, and gives up the guarantee for what it committed
            session.execute(text("INSERT INTO effects VALUES (2)"))
            session.connection().execute(text("SELECT pg_notify('none', '')"))
            steal(house, job)

    [job_id] = await house.enqueue(Job("worker"))
    async with house.runner():
        await house_saw(of, telemetry.JobStale)
    assert [n for (n,) in await house.sql("SELECT n FROM effects")] == ([1] if kind == "sync" else [])
    assert (await house.job(job_id)).state == "executing"


def steal(house: House, job: Job) -> None:
    """Give a job to somebody else, from a thread."""
    import psycopg

    url = house.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE oban_jobs SET attempt = attempt + 1, queue = 'elsewhere', attempted_by = '{other}' WHERE id = %s",
            (job.id,),
        )


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_commits_its_effects_and_its_outcome_in_one_transaction(house: House, kind: str) -> None:
    await house.sql("CREATE TABLE effects (n int)")

    if kind == "async":

        @job(name="worker", registry=house.registry)
        async def in_async(session: AsyncSession, n: int) -> Record:
            await session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": n})
            return Record(n)

    else:

        @job(name="worker", registry=house.registry)
        def in_sync(session: Session, n: int) -> Record:
            session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": n})
            return Record(n)

    [job_id] = await house.enqueue(Job("worker", args={"n": 7}))
    await house.drain()
    done = await house.job(job_id)
    assert (done.state, done.recorded()) == ("completed", 7)
    [(effect, outcome)] = await house.sql(
        "SELECT (SELECT xmin::text FROM effects WHERE n = 7), (SELECT xmin::text FROM oban_jobs WHERE id = :id)",
        id=job_id,
    )
    assert effect == outcome


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_that_fails_leaves_no_effects_but_an_error(house: House, kind: str) -> None:
    await house.sql("CREATE TABLE effects (n int)")

    if kind == "async":

        @job(name="worker", registry=house.registry)
        async def in_async(session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects VALUES (1)"))
            raise ValueError("boo")

    else:

        @job(name="worker", registry=house.registry)
        def in_sync(session: Session) -> None:
            session.execute(text("INSERT INTO effects VALUES (1)"))
            raise ValueError("boo")

    [job_id] = await house.enqueue(Job("worker"))
    await house.drain()
    failed = await house.job(job_id)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith("ValueError: boo")
    assert await house.sql("SELECT * FROM effects") == []


async def test_a_session_worker_whose_flush_fails_only_at_commit_is_retried(house: House) -> None:
    await house.sql("CREATE TABLE parents (id int PRIMARY KEY)")
    await house.sql("CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")

    @job(name="worker", registry=house.registry)
    async def orphan(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO children VALUES (1)"))

    [job_id] = await house.enqueue(Job("worker"))
    await house.drain()
    failed = await house.job(job_id)
    assert failed.state == "retryable"
    assert "ForeignKeyViolation" in failed.errors[0]["error"]


async def test_a_cancel_answered_by_a_session_worker_keeps_what_it_wrote(house: House) -> None:
    await house.sql("CREATE TABLE effects (n int)")

    @job(name="worker", registry=house.registry)
    async def refuses(session: AsyncSession) -> Cancel:
        await session.execute(text("INSERT INTO effects VALUES (1)"))
        return Cancel("no use")

    [job_id] = await house.enqueue(Job("worker"))
    await house.drain()
    assert (await house.job(job_id)).state == "cancelled"
    assert await house.sql("SELECT * FROM effects") == [(1,)]


# A job that is cancelled just as its attempt ends

MARKED = """
UPDATE oban_jobs SET meta = meta || jsonb_build_object('cancel_attempted_at', timezone('UTC', clock_timestamp()))
WHERE id = :id
"""
MARKED_BEFORE = """
UPDATE oban_jobs SET meta = meta || jsonb_build_object('cancel_attempted_at', attempted_at - interval '1 second')
WHERE id = :id
"""
MARKED_ODDLY = """
UPDATE oban_jobs SET meta = meta || '{"cancel_attempted_at": "-"}' WHERE id = :id
"""


@pytest.mark.parametrize("answer", [Snooze(60), ValueError("late")])
@pytest.mark.parametrize(
    ("change", "cancelled"),
    [(MARKED, True), (MARKED_BEFORE, False), (MARKED_ODDLY, False)],
    ids=["now", "before", "odd"],
)
async def test_a_job_that_was_cancelled_as_its_attempt_ended_does_not_run_once_more(
    house: House, change: str, cancelled: bool, answer: object
) -> None:
    @job(registry=house.registry)
    async def unaware(job: Job) -> object:
        await house.sql(change, id=job.id)
        if isinstance(answer, Exception):
            raise answer
        return answer

    [job_id] = await house.enqueue(unaware.new())
    await house.drain()
    ended = await house.job(job_id)
    assert (ended.state == "cancelled") == cancelled
    assert (ended.cancelled_at is not None) == cancelled


@pytest.mark.usefixtures("undecided")
async def test_a_job_that_was_cancelled_and_completed_all_the_same_is_completed(house: House) -> None:
    @job(registry=house.registry)
    async def unaware(job: Job) -> None:
        await house.sql(MARKED, id=job.id)

    [job_id] = await house.enqueue(unaware.new())
    # Else the runner may hear of the cancellation in time.
    await house.drain()
    ended = await house.job(job_id)
    assert (ended.state, ended.cancelled_at) == ("completed", None)


async def test_a_cancelled_job_of_a_dead_node_is_not_run_by_another(house: House) -> None:
    ran: list[int] = []

    @job(registry=house.registry)
    async def never(job: Job) -> None:
        ran.append(job.id)

    [cancelled, wanted] = await house.enqueue(never.new(), never.new())
    await house.sql(
        "INSERT INTO oban_producers (uuid, name, node, queue, meta, updated_at) VALUES ('7e2d4bd4-6c6f-4c41-8b1f-"
        "3b2f6d0c9a11', 'Oban', 'dead.1', 'default', '{\"dead_after\": 1}', timezone('UTC', now()) - interval '1 hour')"
    )
    await house.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_at = timezone('UTC', now()), "
        "attempted_by = ARRAY['dead.1', '7e2d4bd4-6c6f-4c41-8b1f-3b2f6d0c9a11']"
    )
    await house.sql(MARKED, id=cancelled)
    async with house.runner():
        await house.becomes(wanted, "completed")
        await house.becomes(cancelled, "cancelled")
    assert ran == [wanted]
