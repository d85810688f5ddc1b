"""`await oban.enqueue(job)`: one statement without a session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, JobState, Oban, enqueue, hooks, ref
from oban_sa.errors import InvalidArguments, InvalidJob, ReferenceOutsideSession
from oban_sa.outbox.announcements import Announcement, announce_late
from oban_sa.testing import inline
from oban_sa.wire.messages import News
from oban_sa.workers import Registry, job
from tests.clients import Ears, ears
from tests.places import User

LATER = datetime(2999, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
COLUMNS = [column.name for column in Job.__table__.columns]


@contextmanager
def sent(engine: AsyncEngine) -> Iterator[list[str]]:
    """What the engine's connections send inside the block, with BEGIN and COMMIT."""
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        statements.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine.sync_engine, "before_cursor_execute", note)


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[Ears]:
    async with ears(database_url) as heard:
        yield heard


JOBS: dict[str, Callable[[], Job]] = {
    "plain": lambda: Job("w"),
    "rich": lambda: Job("a.b", queue="q", args={"é": [1, None]}, meta={"m": (1, 2)}, tags=["b", "A,"], priority=9),
    "spanned": lambda: Job("w", schedule_in=3600),
    "scheduled": lambda: Job("w", scheduled_at=LATER),
    "suspended": lambda: Job("w", state=JobState.SUSPENDED),
    "with an id": lambda: Job("w", id=77_000),
    "with a past": lambda: Job("w", attempt=1, errors=[{"at": "x", "attempt": 1, "error": "y"}]),
}


@pytest.mark.parametrize("kind", JOBS)
async def test_a_job_comes_back_detached_and_as_its_row_is(driven: AsyncEngine, kind: str) -> None:
    job = JOBS[kind]()
    assert await Oban(driven).enqueue(job) is job
    state = inspect(job)
    assert state.detached
    assert not state.unloaded
    assert not state.modified
    async with AsyncSession(driven) as session:
        row = (await session.scalars(select(Job))).one()
        assert {name: getattr(job, name) for name in COLUMNS} == {name: getattr(row, name) for name in COLUMNS}
        assert await session.merge(job) is row


async def test_a_job_is_what_a_session_would_write(driven: AsyncEngine) -> None:
    given = [make for kind, make in JOBS.items() if kind != "with an id"]
    for make in given:
        await Oban(driven).enqueue(make())
    async with AsyncSession(driven) as session, session.begin():
        for make in given:
            enqueue(session, make())
            await session.flush()
    async with AsyncSession(driven) as session:
        found = [
            (job.worker, job.queue, job.state, job.args, job.meta, job.tags, job.priority, job.attempt, job.errors)
            for job in await session.scalars(select(Job).order_by(Job.id))
        ]
    assert found[: len(given)] == found[len(given) :]


async def test_a_span_counts_from_the_clock_of_the_database(driven: AsyncEngine) -> None:
    job = await Oban(driven).enqueue(Job("w", schedule_in="1 hour"))
    assert timedelta(hours=1) <= job.scheduled_at - job.inserted_at < timedelta(hours=1, minutes=1)


async def test_one_statement_inserts_and_announces(driven: AsyncEngine, listening: Ears) -> None:
    with sent(driven) as statements:
        await Oban(driven).enqueue(Job("w", queue="a"))
    assert len(statements) == 1
    assert await listening.heard() == [("insert", {"queue": "a"})]


async def test_only_what_is_available_now_is_announced(driven: AsyncEngine, listening: Ears) -> None:
    oban = Oban(driven)
    for kind in ("spanned", "scheduled", "suspended"):
        await oban.enqueue(JOBS[kind]())
    assert await listening.heard() == []
    await oban.enqueue(Job("w", schedule_in=0.5, queue="soon"))  # sooner than runners look by themselves
    assert await listening.heard() == [("insert", {"queue": "soon"})]


async def test_announcements_can_be_off(driven: AsyncEngine, listening: Ears) -> None:
    await Oban(driven, announce=False).enqueue(Job("w"))
    await Oban(driven.execution_options(oban_announce=False)).enqueue(Job("w"))
    assert await listening.heard() == []


async def test_of_jobs_enqueued_at_the_same_time_the_last_is_announced_after_its_commit(
    driven: AsyncEngine, listening: Ears
) -> None:
    oban = Oban(driven)
    await oban.enqueue(Job("w", queue="other"))
    await listening.heard()
    made = await asyncio.gather(*(oban.enqueue(Job("w", queue="q")) for _ in range(40)))
    heard = await listening.heard()
    assert set(map(str, heard)) == {str(("insert", {"queue": "q"}))}
    assert len({job.id for job in made}) == 40
    assert len(heard) < 40  # not each commit waits for the lock of NOTIFY


def announcement(connection: Connection) -> Announcement:
    return Announcement(connection.engine, {"q": News(1)})


def leave(announcement: Announcement, connection: Connection) -> None:
    announcement.__exit__(None)
    announce_late(connection, announcement.late)


@pytest.mark.parametrize("first", ["announcer", "other"])
async def test_what_one_leaves_to_another_is_announced_after_both_have_committed(
    sync_engine: Engine, listening: Ears, first: str
) -> None:
    with sync_engine.connect() as one, sync_engine.connect() as two:
        announcer, other = announcement(one), announcement(two)
        assert (announcer.notice is None, other.notice is None) == (False, True)
        order = [announcer, other] if first == "announcer" else [other, announcer]
        for each in (announcer, other):
            each.__enter__()
        leave(order[0], one)
        assert await listening.heard() == []
        leave(order[1], one)
    assert await listening.heard() == [("insert", {"queue": "q"})]


async def test_what_leaves_its_queue_to_another_tells_of_a_job_that_is_due_soon(sync_engine: Engine) -> None:
    with sync_engine.connect() as one, sync_engine.connect() as two:
        announcer = announcement(one)
        soon = Announcement(two.engine, {"q": News(0, due=True)})
        assert announcer.notice is not None
        assert soon.notice is not None
        assert '"due":1' in soon.notice.payloads[0]


async def test_what_was_left_to_one_that_failed_is_announced(sync_engine: Engine, listening: Ears) -> None:
    with sync_engine.connect() as one, sync_engine.connect() as two:
        failing, other = announcement(one), announcement(two)
        failing.__enter__()
        other.__enter__()
        failing.__exit__(ValueError)
        leave(other, two)
    assert await listening.heard() == [("insert", {"queue": "q"})]


async def test_hooks_see_a_job_once_and_may_change_it(driven: AsyncEngine) -> None:
    seen: list[Job] = []

    def mark(job: Job) -> None:
        seen.append(job)
        job.meta["at"] = LATER
        job.priority = 3

    remove = hooks.before_insert(mark)
    given = {"kept": True}
    try:
        made = await Oban(driven).enqueue(Job("w", meta=given))
        past = await Oban(driven).enqueue(Job("w", attempt=1))
    finally:
        remove()
    assert seen == [made, past]
    assert given == {"kept": True}
    assert (made.meta, made.priority) == ({"kept": True, "at": LATER.isoformat()}, 3)


async def test_a_hook_that_fails_leaves_no_job(driven: AsyncEngine) -> None:
    def refuse(job: Job) -> None:
        raise LookupError("no")

    remove = hooks.before_insert(refuse)
    job = Job("w")
    try:
        with pytest.raises(LookupError):
            await Oban(driven).enqueue(job)
    finally:
        remove()
    assert inspect(job).transient
    assert (await Oban(driven).enqueue(job)).id > 0


async def test_what_is_refused_is_refused_in_the_words_of_a_session(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    there = await oban.enqueue(Job("w"))
    refused: list[tuple[Any, type[Exception], str]] = [
        (there, InvalidJob, "is stored already"),
        (Job("w", state=JobState.COMPLETED), InvalidJob, "completed can't be enqueued"),
        (Job("w", args={"x": [{1}]}), InvalidArguments, r"args\.x\[0\] is a set"),
        (Job("w", meta={"x": float("nan")}), InvalidArguments, r"meta\.x is nan"),
        (Job("w", args={"user": ref(User())}), ReferenceOutsideSession, "args.user"),
        ("w", TypeError, "a Job is enqueued, and this is a str"),
        ([Job("w")], TypeError, "for several write enqueue_many"),
    ]
    for bad, kind, words in refused:
        with pytest.raises(kind, match=words):
            await oban.enqueue(bad)
    with Session() as session:
        waiting = enqueue(session, Job("w"))
        with pytest.raises(InvalidRequestError, match="already attached to session"):
            await oban.enqueue(waiting)
        session.expunge_all()
    async with driven.connect() as connection:
        assert await connection.scalar(select(func.count()).select_from(Job)) == 1


async def test_what_the_database_refuses_comes_out_and_the_connection_goes_on(driven: AsyncEngine) -> None:
    async with driven.begin() as connection:
        await connection.execute(text("ALTER TABLE oban_jobs ADD CHECK (worker <> 'bad')"))
    job = Job("bad")
    with pytest.raises(DBAPIError, match="violates check constraint"):
        await Oban(driven).enqueue(job)
    assert inspect(job).transient
    assert (await Oban(driven).enqueue(Job("w"))).id > 0
    async with driven.connect() as connection:  # with a transaction as ever
        await connection.execute(text("INSERT INTO oban_jobs (worker) VALUES ('gone')"))
        await connection.rollback()
        assert await connection.scalar(select(func.count()).select_from(Job)) == 1


async def test_values_only_a_session_can_write_are_written(driven: AsyncEngine) -> None:
    job = Job("w")
    job.priority = func.abs(-3)
    await Oban(driven).enqueue(job)
    async with driven.connect() as connection:
        assert await connection.scalar(select(Job.priority)) == 3


async def test_a_transaction_that_the_application_prepares_is_used(driven: AsyncEngine) -> None:
    def prepare(connection: Any) -> None:
        connection.exec_driver_sql("SET LOCAL application_name = 'tenant'")

    async with driven.begin() as connection:
        await connection.execute(
            text("ALTER TABLE oban_jobs ADD CHECK (current_setting('application_name') = 'tenant')")
        )
    event.listen(driven.sync_engine, "begin", prepare)
    assert (await Oban(driven).enqueue(Job("w"))).id > 0


POOLED: list[dict[str, Any]] = [
    {"statement_cache_size": 0, "prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""},
    {"prepared_statement_name_func": lambda: f"__{uuid4()}__"},
]


@pytest.mark.parametrize("arguments", POOLED, ids=["unnamed", "unique names"])
async def test_an_engine_for_a_pooler_writes_in_a_transaction(database_url: str, arguments: dict[str, Any]) -> None:
    begun: list[str] = []
    pooled = create_async_engine(database_url, connect_args=arguments)

    @event.listens_for(pooled.sync_engine, "connect")
    def watch(connection: Any, _: Any) -> None:
        connection.driver_connection.add_query_logger(lambda logged: begun.append(logged.query.strip(";").split()[0]))

    oban = Oban(pooled)
    try:
        await oban.enqueue(Job("w"))
        await asyncio.sleep(0.01)  # asyncpg tells from the event loop
        begun.clear()
        await oban.enqueue(Job("w"))
        await asyncio.sleep(0.01)
        assert (begun[0], begun[-1]) == ("BEGIN", "COMMIT"), begun
    finally:
        await pooled.dispose()


async def test_jobs_run_inline(driven: AsyncEngine) -> None:
    registry, ran = Registry(), []

    @job(name="inlined", registry=registry)
    async def work(number: int) -> None:
        ran.append(number)

    with inline(registry=registry):
        await Oban(driven).enqueue(work.new(7))
    assert ran == [7]
