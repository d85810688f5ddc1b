"""Only the attempt that holds a job may say how it ended."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, job, telemetry
from oban_sa.runner.cluster.tally import Tally
from oban_sa.runner.execution.attempt import Interrupted
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.queue.acker import Acker
from oban_sa.runner.queue.exchange import Tables
from oban_sa.wire import messages
from tests.factories import executing, producer
from tests.runner.conftest import Harness
from tests.support import eventually

TAKEN_OVER = """
UPDATE oban_jobs SET attempt = attempt + 1, attempted_by = ARRAY['other.node', 'other-uuid'] WHERE id = :id
"""
CANCELLED = "UPDATE oban_jobs SET state = 'cancelled', cancelled_at = timezone('UTC', now()) WHERE id = :id"
RESCUED = "UPDATE oban_jobs SET state = 'available' WHERE id = :id"
SAME_NODE_AGAIN = "UPDATE oban_jobs SET attempt = attempt + 1 WHERE id = :id"
SAME_ATTEMPT_AGAIN = """
UPDATE oban_jobs SET attempted_at = attempted_at + interval '1 microsecond' WHERE id = :id
"""
ANOTHER_HOLDER = "UPDATE oban_jobs SET attempted_by = ARRAY['other.node', 'other-uuid'] WHERE id = :id"


def unfenced(row: dict[str, object]) -> dict[str, object]:
    return {name: row[name] for name in ("state", "attempt", "attempted_by", "errors", "meta", "completed_at")}


@pytest.mark.parametrize(
    "change", [TAKEN_OVER, CANCELLED, RESCUED, SAME_NODE_AGAIN, SAME_ATTEMPT_AGAIN, ANOTHER_HOLDER]
)
@pytest.mark.parametrize("answer", [None, Record(1), Snooze(5), Cancel("no"), ValueError("late")])
@pytest.mark.usefixtures("undecided")  # nobody tells the job that it is lost before it has an answer
async def test_an_outcome_that_comes_after_its_job_was_lost_changes_nothing(
    harness: Harness, of, change, answer
) -> None:
    if change is CANCELLED and isinstance(answer, (Cancel, ValueError)):
        return  # what is kept of it, the next test says
    rows: list[dict[str, object]] = []

    @job(registry=harness.registry, cancel="ask")  # so that it comes to its end although a cancel is seen
    async def late(job: Job) -> object:
        await harness.sql("UPDATE oban_jobs SET queue = 'elsewhere' WHERE id = :id", id=job.id)
        await harness.sql(change, id=job.id)
        rows.append(unfenced((await harness.job(job.id)).__dict__))
        if isinstance(answer, Exception):
            raise answer
        return answer

    [job_id] = await harness.enqueue(late.new())
    async with harness.runner():
        await house_saw(of, telemetry.JobStale)
    assert unfenced((await harness.job(job_id)).__dict__) == rows[0]
    assert [event.job_id for event in of(telemetry.JobStale)] == [job_id]


@pytest.mark.parametrize("answer", [None, ValueError("late")], ids=["answers", "fails"])
async def test_an_attempt_that_is_told_that_it_lost_its_job_is_told_of_as_stale_alone_and_once(
    harness: Harness, of, answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, counted = asyncio.Event(), list[object]()
    monkeypatch.setattr(Tally, "ended", lambda *said: counted.append(said))

    @job(registry=harness.registry, name="late")
    async def late(job: Job) -> None:
        await harness.sql(TAKEN_OVER, id=job.id)
        taken.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if answer is not None:
                raise answer from None

    [job_id] = await harness.enqueue(late.new())
    async with harness.runner() as runner:
        await taken.wait()
        [producer] = runner._queues.all
        producer.interrupt(Interrupted.LOST)
        await eventually(lambda: of(telemetry.ProducerAck) and producer.idle())
        assert runner._executor.tally.completed == {}
    assert [event.job_id for event in of(telemetry.JobStale)] == [job_id]
    assert of(telemetry.JobStop) == of(telemetry.JobException) == counted == []


@pytest.mark.parametrize(
    ("answer", "said", "stale"),
    [(Cancel("no"), "AttemptCancelled: no", 0), (ValueError("late"), "ValueError: late", 1)],
)
@pytest.mark.usefixtures("undecided")
async def test_what_an_attempt_says_of_a_job_that_was_set_cancelled_is_kept_in_its_errors(
    harness: Harness, of, answer, said, stale
) -> None:
    """Elixir's nodes set a running job cancelled at once, and leave the error to whoever runs it."""

    @job(registry=harness.registry, name="late", cancel="ask")
    async def late(job: Job) -> object:
        await harness.sql(CANCELLED, id=job.id)
        if isinstance(answer, Exception):
            raise answer
        return answer

    [job_id] = await harness.enqueue(late.new())
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: of(telemetry.ProducerAck) and producer.idle())
    done = await harness.job(job_id)
    assert (done.state, done.attempt) == ("cancelled", 1)
    assert [entry["error"].splitlines()[0] for entry in done.errors] == [said]
    assert done.errors[0]["attempt"] == 1
    assert len(of(telemetry.JobStale)) == stale  # a failure was not what the row says; that it is cancelled, is


async def test_a_job_that_elixir_cancels_has_an_entry_of_it_and_no_warning_is_logged(
    harness: Harness, of, caplog
) -> None:
    """It sets a running job cancelled at once, and tells the node."""

    @job(registry=harness.registry)
    async def waits() -> None:
        await asyncio.Event().wait()

    [job_id] = await harness.enqueue(waits.new())
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: runner._notifier.proven and any(each.begun for each in producer.running.values()))
        await harness.sql(CANCELLED, id=job_id)
        pkill = messages.encode(messages.pkill(job_id))
        await harness.sql("SELECT pg_notify('public.oban_signal', :pkill)", pkill=pkill)
        await eventually(producer.idle)
    cancelled = await harness.job(job_id)
    assert (cancelled.state, cancelled.attempt, len(cancelled.errors)) == ("cancelled", 1, 1)
    assert cancelled.errors[0]["error"].startswith("AttemptCancelled: ")
    assert of(telemetry.JobStale) == []
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == []


@pytest.mark.usefixtures("undecided")
async def test_a_late_duplicate_of_a_snooze_leaves_the_next_run_alone(harness: Harness, monkeypatch) -> None:
    """A snooze refunds its attempt, so holder and attempt are the same when the job runs again."""
    said: list[Outcome] = []
    written = Acker.written
    gate = asyncio.Event()

    def noting(self: Acker, acked, *, duration: float) -> None:
        said.extend(self._writing)
        written(self, acked, duration=duration)

    monkeypatch.setattr(Acker, "written", noting)

    @job(registry=harness.registry)
    async def twice(job: Job) -> Snooze | None:
        if not said:
            return Snooze(0)
        await gate.wait()
        return None

    [job_id] = await harness.enqueue(twice.new())
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: said and producer.running)
        before = await harness.job(job_id)
        assert (before.state, before.attempt, before.attempted_by) == ("executing", 1, producer.holder)
        late = Tables(runner._database, "default", producer.holder, schema="public")
        assert await late.exchange(said, 0) == ([], [])
        await late.close()
        assert (await harness.job(job_id)).state == "executing"
        gate.set()
        assert (await harness.becomes(job_id, "completed")).attempt == 1


@pytest.mark.parametrize("session", [None, AsyncSession, Session])
async def test_what_a_worker_does_to_the_job_it_is_given_changes_nothing_about_whose_it_is(harness, session) -> None:
    def spoil(job: Job) -> None:
        job.attempted_by.append("more")
        for name, value in {"id": 0, "attempt": 9, "max_attempts": 9, "attempted_at": None, "attempted_by": []}.items():
            setattr(job, name, value)

    if session is None:

        @job(registry=harness.registry, name="spoiling")
        async def plain(job: Job) -> None:
            spoil(job)

    elif session is AsyncSession:

        @job(registry=harness.registry, name="spoiling")
        async def in_async(job: Job, session: AsyncSession) -> None:
            await session.execute(text("SELECT 1"))
            spoil(job)

    else:

        @job(registry=harness.registry, name="spoiling")
        def in_sync(job: Job, session: Session) -> None:
            session.execute(text("SELECT 1"))
            spoil(job)

    [job_id] = await harness.enqueue(Job("spoiling"))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert done.attempt == 1


async def house_saw(of, kind: type[telemetry.Event]) -> None:
    from tests.support import eventually

    await eventually(lambda: of(kind))


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_that_lost_its_job_leaves_no_effects(harness: Harness, of, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    @job(name="worker", registry=harness.registry)
    async def in_async(job: Job, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO effects VALUES (1)"))
        await harness.sql(TAKEN_OVER, id=job.id)
        await harness.sql("UPDATE oban_jobs SET queue = 'elsewhere' WHERE id = :id", id=job.id)

    if kind == "sync":
        harness.registry.__init__()

        @job(name="worker", registry=harness.registry)
        def in_sync(job: Job, session: Session) -> None:
            session.execute(text("INSERT INTO effects VALUES (1)"))
            session.commit()  # a worker may commit by itself, and gives up the guarantee for what it committed
            session.execute(text("INSERT INTO effects VALUES (2)"))
            session.connection().execute(text("SELECT pg_notify('none', '')"))
            steal(harness, job)

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        await house_saw(of, telemetry.JobStale)
    assert [n for (n,) in await harness.sql("SELECT n FROM effects")] == ([1] if kind == "sync" else [])
    assert (await harness.job(job_id)).state == "executing"


def steal(harness: Harness, job: Job) -> None:
    """Give a job to somebody else, from a thread."""
    import psycopg

    url = harness.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        connection.execute(
            "UPDATE oban_jobs SET attempt = attempt + 1, queue = 'elsewhere', attempted_by = '{other}' WHERE id = %s",
            (job.id,),
        )


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_commits_its_effects_and_its_outcome_in_one_transaction(
    harness: Harness, kind: str
) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def in_async(session: AsyncSession, n: int) -> Record:
            await session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": n})
            return Record(n)

    else:

        @job(name="worker", registry=harness.registry)
        def in_sync(session: Session, n: int) -> Record:
            session.execute(text("INSERT INTO effects VALUES (:n)"), {"n": n})
            return Record(n)

    [job_id] = await harness.enqueue(Job("worker", args={"n": 7}))
    await harness.drain()
    done = await harness.job(job_id)
    assert (done.state, done.recorded()) == ("completed", 7)
    [(effect, outcome)] = await harness.sql(
        "SELECT (SELECT xmin::text FROM effects WHERE n = 7), (SELECT xmin::text FROM oban_jobs WHERE id = :id)",
        id=job_id,
    )
    assert effect == outcome


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_session_worker_that_fails_leaves_no_effects_but_an_error(harness: Harness, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def in_async(session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects VALUES (1)"))
            raise ValueError("boo")

    else:

        @job(name="worker", registry=harness.registry)
        def in_sync(session: Session) -> None:
            session.execute(text("INSERT INTO effects VALUES (1)"))
            raise ValueError("boo")

    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    failed = await harness.job(job_id)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith("ValueError: boo")
    assert await harness.sql("SELECT * FROM effects") == []


async def test_a_session_worker_whose_flush_fails_only_at_commit_is_retried(harness: Harness) -> None:
    await harness.sql("CREATE TABLE parents (id int PRIMARY KEY)")
    await harness.sql("CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")

    @job(name="worker", registry=harness.registry)
    async def orphan(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO children VALUES (1)"))

    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    failed = await harness.job(job_id)
    assert failed.state == "retryable"
    assert "ForeignKeyViolation" in failed.errors[0]["error"]


async def test_a_cancel_answered_by_a_session_worker_keeps_what_it_wrote(harness: Harness) -> None:
    await harness.sql("CREATE TABLE effects (n int)")

    @job(name="worker", registry=harness.registry)
    async def refuses(session: AsyncSession) -> Cancel:
        await session.execute(text("INSERT INTO effects VALUES (1)"))
        return Cancel("no use")

    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    assert (await harness.job(job_id)).state == "cancelled"
    assert await harness.sql("SELECT * FROM effects") == [(1,)]


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
    harness: Harness, change: str, cancelled: bool, answer: object
) -> None:
    @job(registry=harness.registry)
    async def unaware(job: Job) -> object:
        await harness.sql(change, id=job.id)
        if isinstance(answer, Exception):
            raise answer
        return answer

    [job_id] = await harness.enqueue(unaware.new())
    await harness.drain()
    ended = await harness.job(job_id)
    assert (ended.state == "cancelled") == cancelled
    assert (ended.cancelled_at is not None) == cancelled


@pytest.mark.usefixtures("undecided")
async def test_a_job_that_was_cancelled_and_completed_all_the_same_is_completed(harness: Harness) -> None:
    @job(registry=harness.registry)
    async def unaware(job: Job) -> None:
        await harness.sql(MARKED, id=job.id)

    [job_id] = await harness.enqueue(unaware.new())
    # Else the runner may hear of the cancellation in time.
    await harness.drain()
    ended = await harness.job(job_id)
    assert (ended.state, ended.cancelled_at) == ("completed", None)


async def test_a_cancelled_job_of_a_dead_node_is_not_run_by_another(harness: Harness) -> None:
    ran: list[int] = []

    @job(registry=harness.registry)
    async def never(job: Job) -> None:
        ran.append(job.id)

    [cancelled, wanted] = await harness.enqueue(never.new(), never.new())
    dead = await harness.add(producer("dead.1", silent_for=3600, dead_after=1))
    await harness.add(executing([cancelled, wanted], by=dead, node="dead.1"))
    await harness.sql(MARKED, id=cancelled)
    async with harness.runner():
        await harness.becomes(wanted, "completed")
        await harness.becomes(cancelled, "cancelled")
    assert ran == [wanted]
