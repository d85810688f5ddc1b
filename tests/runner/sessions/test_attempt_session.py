"""The attempt's own session: where it comes from, what of it is committed, and with what."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa import Cancel, Job, JobState, Record, Snooze, current_job, enqueue, job, telemetry
from oban_sa.errors import AttemptCancelled, InvalidOption
from oban_sa.migrations import migrate
from oban_sa.workers.middleware import CallNext
from tests.databases import Databases
from tests.runner.conftest import Harness
from tests.support import eventually

KINDS = ["async", "sync"]


class Ours(Session):
    """A session class of the application."""


class OursAsync(AsyncSession):
    """An asynchronous one."""


@pytest.fixture
async def effects(harness: Harness) -> None:
    await harness.sql("CREATE TABLE effects (n int PRIMARY KEY)")


async def written(harness: Harness) -> list[int]:
    return sorted(n for (n,) in await harness.sql("SELECT n FROM effects"))


INSERT = text("INSERT INTO effects VALUES (:n)")


async def passes(job: Job, call_next: CallNext) -> Any:
    return await call_next()


# Where it comes from


async def test_sessions_come_from_the_applications_sessionmaker(harness: Harness) -> None:
    class Marked(AsyncSession):
        pass

    begun: list[Session] = []
    makes = sessionmaker(class_=Ours, info={"from": "sync maker"})
    event.listen(makes, "after_begin", lambda session, *_: begun.append(session))
    sessions = async_sessionmaker(
        harness.engine, class_=Marked, sync_session_class=makes, expire_on_commit=True, info={"app": "shop"}
    )
    seen: dict[str, Any] = {}

    @job(registry=harness.registry)
    async def on_loop(session: Marked) -> None:
        await session.execute(text("SELECT 1"))
        seen["loop"] = (type(session.sync_session).__mro__, session.info["app"], session.sync_session.expire_on_commit)

    @job(registry=harness.registry)
    def in_thread(session: Ours) -> None:
        session.execute(text("SELECT 1"))
        seen["thread"] = (type(session).__mro__, session.info["app"], session.expire_on_commit)

    await harness.enqueue(on_loop.new(), in_thread.new())
    await harness.drain(sessions=sessions)
    assert await harness.states() == {"completed": 2}
    for mro, app, expire in seen.values():
        assert Ours in mro
        assert (app, expire) == ("shop", True)
    assert len(begun) == 2


async def test_the_default_sessions_are_of_the_class_that_the_worker_names(harness: Harness) -> None:
    seen: list[type] = []

    @job(registry=harness.registry)
    async def on_loop(session: OursAsync) -> None:
        seen.append(type(session))

    @job(registry=harness.registry)
    def in_thread(session: Ours) -> None:
        seen.append(type(session))

    await harness.enqueue(on_loop.new(), in_thread.new())
    await harness.drain()
    assert set(seen) == {OursAsync, Ours}


async def test_synchronous_workers_may_have_a_synchronous_sessionmaker(
    harness: Harness, sync_sessions: sessionmaker[Session], effects: None
) -> None:
    @job(registry=harness.registry)
    def in_thread(session: Session, n: int) -> None:
        assert session.get_bind().dialect.driver == "psycopg"
        session.execute(INSERT, {"n": n})

    await harness.enqueue(*(in_thread.new(n) for n in range(20)))
    await harness.drain(sessions=scoped_session(sync_sessions))
    assert await written(harness) == list(range(20))
    assert await harness.states() == {"completed": 20}


async def test_anything_that_returns_a_session_will_do(harness: Harness, effects: None) -> None:
    made: list[AsyncSession] = []

    def make() -> AsyncSession:
        made.append(AsyncSession(harness.engine))
        return made[-1]

    @job(registry=harness.registry)
    async def on_loop(session: AsyncSession) -> None:
        assert session is made[-1]
        await session.execute(INSERT, {"n": 1})

    await harness.enqueue(on_loop.new())
    await harness.drain(sessions=make)
    assert await written(harness) == [1]


async def get_session() -> Any:
    yield


async def make_session() -> Any: ...


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda engine: engine, "an AsyncEngine makes no sessions"),
        (lambda engine: AsyncSession(engine), "an AsyncSession is one session, and each attempt has its own"),
        (lambda _: "myapp.db:Session", "'myapp.db:Session' is no sessionmaker"),
        (lambda _: get_session, "yields sessions instead of returning one"),
        (lambda _: make_session, "has to be awaited"),
    ],
)
async def test_what_makes_no_sessions_is_refused_with_words(harness: Harness, give: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        async with harness.runner(sessions=give(harness.engine)):
            pass


async def test_what_makes_unusable_sessions_is_refused_when_the_runner_starts(
    harness: Harness, sync_sessions: sessionmaker[Session]
) -> None:
    @job(registry=harness.registry)
    async def on_loop(session: AsyncSession) -> None: ...

    elsewhere = harness.engine.execution_options(schema_translate_map={"public": "tenant"})
    alone = harness.engine.execution_options(isolation_level="AUTOCOMMIT")
    for given, words in [
        (lambda: 7, "an int, which is no session"),
        (async_sessionmaker(), "doesn't say which database has the jobs"),
        (async_sessionmaker(sync_sessions.kw["bind"]), "making a session failed"),
        (sync_sessions, "on_loop.. takes an AsyncSession, and sessions makes a Session, which would block the loop"),
        (async_sessionmaker(elsewhere), "looks for jobs in the schema 'tenant'"),
        (async_sessionmaker(alone), "is on AUTOCOMMIT"),
        (async_sessionmaker(harness.engine, twophase=True), "twophase=True"),
    ]:
        with pytest.raises(InvalidOption, match=words):
            async with harness.runner(sessions=given):
                pass


async def test_a_worker_whose_session_class_is_another_is_refused_when_the_runner_starts(harness: Harness) -> None:
    @job(name="on_loop", registry=harness.registry)
    async def on_loop(session: OursAsync) -> None: ...

    with pytest.raises(InvalidOption, match=r"takes an OursAsync, and sessions makes an AsyncSession; .*class_=Ours"):
        async with harness.runner(sessions=harness.sessions):
            pass
    harness.registry.__init__()

    @job(name="in_thread", registry=harness.registry)
    def in_thread(session: Ours) -> None: ...

    with pytest.raises(InvalidOption, match=r"takes an Ours, and sessions makes a Session; .*sync_session_class=Ours"):
        async with harness.runner(sessions=harness.sessions):
            pass


async def test_sessions_that_lead_to_another_database_are_refused(harness: Harness, empty_database_url: str) -> None:
    other = create_async_engine(empty_database_url)
    async with other.begin() as connection:
        await connection.run_sync(migrate)
    try:
        with pytest.raises(InvalidOption, match="is not the database that the runner works in"):
            async with harness.runner(sessions=async_sessionmaker(other)):
                pass
    finally:
        await other.dispose()


async def test_another_engine_on_the_same_database_is_fine(harness: Harness, database_url: str, effects: None) -> None:
    own = create_async_engine(database_url)

    @job(registry=harness.registry)
    async def on_loop(session: AsyncSession) -> None:
        await session.execute(INSERT, {"n": 1})

    await harness.enqueue(on_loop.new())
    await harness.drain(sessions=async_sessionmaker(own))
    await own.dispose()
    assert await written(harness) == [1]


# What is committed


def define(harness: Harness, kind: str, body: Any) -> None:
    """A worker that runs synchronous code with its session, in a thread or on the loop."""
    if kind == "async":

        @job(name="worker", registry=harness.registry, backoff=60)
        async def on_loop(job: Job, session: AsyncSession, **_: Any) -> Any:
            return await session.run_sync(lambda sync: body(job, sync))

    else:

        @job(name="worker", registry=harness.registry, backoff=60)
        def in_thread(job: Job, session: Session, **_: Any) -> Any:
            return body(job, session)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("answer", "state"),
    [(None, "completed"), (Record(1), "completed"), (Snooze(60), "scheduled"), (Cancel("no"), "cancelled")],
    ids=["None", "Record", "Snooze", "Cancel"],
)
async def test_every_answer_commits_what_was_written_in_its_own_transaction(
    harness: Harness, effects: None, kind: str, answer: Any, state: str
) -> None:
    def body(_: Job, session: Session) -> Any:
        session.execute(INSERT, {"n": 1})
        return answer

    define(harness, kind, body)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        await harness.becomes(job_id, state)
    [(one, other)] = await harness.sql(
        "SELECT (SELECT xmin::text FROM effects), (SELECT xmin::text FROM oban_jobs WHERE id = :id)", id=job_id
    )
    assert one == other


@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_that_is_enqueued_in_the_body_joins_the_commit(harness: Harness, effects: None, kind: str) -> None:
    def body(job: Job, session: Session) -> None:
        link = job.args["link"]
        session.execute(INSERT, {"n": link})
        if link < 3:
            enqueue(session, Job("worker", args={"link": link + 1}))
        if link == 2 and job.attempt == 1:
            raise ValueError("boo")

    define(harness, kind, body)
    await harness.enqueue(Job("worker", args={"link": 1}))
    async with harness.runner():
        await eventually(lambda: failed(harness))
        assert await written(harness) == [1], await harness.sql("SELECT errors FROM oban_jobs")
        assert await harness.states() == {"completed": 1, "retryable": 1}
        await harness.sql("UPDATE oban_jobs SET scheduled_at = timezone('UTC', now()) WHERE state = 'retryable'")
        await eventually(lambda: completed(harness, 3))
    assert await written(harness) == [1, 2, 3]
    assert await harness.states() == {"completed": 3}


async def failed(harness: Harness) -> bool:
    return "retryable" in await harness.states()


async def completed(harness: Harness, count: int) -> bool:
    return (await harness.states()).get("completed") == count


@pytest.mark.parametrize("kind", KINDS)
async def test_a_body_may_use_transactions_of_its_own(harness: Harness, effects: None, kind: str) -> None:
    def body(_: Job, session: Session) -> None:
        assert not session.in_transaction()  # or begin() would be refused
        with session.begin():
            session.execute(INSERT, {"n": 1})
        session.execute(INSERT, {"n": 2})
        session.rollback()
        session.execute(INSERT, {"n": 3})
        with pytest.raises(IntegrityError), session.begin_nested():
            session.execute(INSERT, {"n": 3})
        session.begin_nested()
        session.execute(INSERT, {"n": 4})

    define(harness, kind, body)
    await harness.enqueue(Job("worker"))
    await harness.drain()
    assert await harness.states() == {"completed": 1}
    assert await written(harness) == [1, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_body_committed_early_stays_and_the_rest_rolls_back(
    harness: Harness, effects: None, kind: str
) -> None:
    def body(_: Job, session: Session) -> None:
        session.execute(INSERT, {"n": 1})
        session.commit()
        session.execute(INSERT, {"n": 2})
        raise ValueError("boo")

    define(harness, kind, body)
    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    assert (await harness.job(job_id)).state == "retryable"
    assert await written(harness) == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resets", [True, False])
async def test_a_body_may_close_its_session(harness: Harness, effects: None, kind: str, resets: bool) -> None:
    def body(_: Job, session: Session) -> None:
        session.execute(INSERT, {"n": 1})
        session.commit()
        session.execute(INSERT, {"n": 2})
        session.close()

    define(harness, kind, body)
    await harness.enqueue(Job("worker"))
    await harness.drain(sessions=async_sessionmaker(harness.engine, close_resets_only=resets))
    assert await harness.states() == {"completed": 1}
    assert await written(harness) == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["flush", "statement"])
async def test_a_transaction_that_failed_unnoticed_is_an_error_with_words(
    harness: Harness, effects: None, kind: str, how: str
) -> None:
    def body(_: Job, session: Session) -> None:
        session.execute(INSERT, {"n": 1})
        with pytest.raises(IntegrityError):
            if how == "statement":
                session.execute(INSERT, {"n": 1})
            else:
                session.add_all([Job("a", id=7), Job("b", id=7)])
                session.flush()

    define(harness, kind, body)
    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    found = await harness.job(job_id)
    assert found.state == "retryable"
    assert "returned with a session whose transaction had failed" in found.errors[0]["error"]
    assert await written(harness) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_sessions_that_begin_only_when_told_are_ended_all_the_same(
    harness: Harness, effects: None, kind: str
) -> None:
    def body(_: Job, session: Session) -> None:
        with session.begin():
            session.execute(INSERT, {"n": 1})
        session.begin()
        session.execute(INSERT, {"n": 2})

    define(harness, kind, body)
    await harness.enqueue(Job("worker"))
    await harness.drain(sessions=async_sessionmaker(harness.engine, autobegin=False))
    assert await harness.states() == {"completed": 1}
    assert await written(harness) == [1, 2]


async def test_statements_that_commit_by_themselves_are_refused(
    harness: Harness, effects: None, database_url: str
) -> None:
    engine = create_async_engine(database_url, isolation_level="AUTOCOMMIT")

    @job(registry=harness.registry)
    async def alone(session: AsyncSession) -> None:
        await session.execute(INSERT, {"n": 1})

    [job_id] = await harness.enqueue(alone.new())
    await harness.drain(sessions=async_sessionmaker(engine))
    await engine.dispose()
    assert "are on AUTOCOMMIT" in (await harness.job(job_id)).errors[0]["error"]
    assert await written(harness) == []


async def test_a_task_that_outlives_its_attempt_can_not_use_the_session(harness: Harness, effects: None) -> None:
    tasks: list[asyncio.Task[None]] = []
    over = asyncio.Event()

    async def late(session: AsyncSession) -> None:
        await over.wait()
        await session.execute(INSERT, {"n": 2})

    @job(registry=harness.registry)
    async def leaves(session: AsyncSession) -> None:
        tasks.append(asyncio.create_task(late(session)))
        await session.execute(INSERT, {"n": 1})

    await harness.enqueue(leaves.new())
    await harness.drain()
    over.set()
    with pytest.raises(Exception, match="is over, and its session with it"):
        await tasks[0]
    assert await written(harness) == [1]
    assert harness.engine.pool.checkedout() == 0


async def test_code_that_writes_nothing_has_its_outcome_written_with_others(harness: Harness) -> None:
    begun: list[Any] = []

    @job(registry=harness.registry)
    async def idle(session: AsyncSession) -> None:
        event.listen(session.sync_session, "after_begin", lambda *_: begun.append(1))

    await harness.enqueue(*(idle.new() for _ in range(5)))
    await harness.drain()
    assert await harness.states() == {"completed": 5}
    assert begun == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deletes", [True, False])
async def test_a_worker_that_takes_its_own_job_away_fails_and_is_not_left_executing(
    harness: Harness, effects: None, of: Any, kind: str, deletes: bool
) -> None:
    def take_away(session: Session, job_id: int) -> None:
        session.execute(INSERT, {"n": 1})
        itself = session.get_one(Job, job_id)
        if deletes:
            session.delete(itself)
        else:
            itself.state = JobState.CANCELLED

    @job(name="on_loop", registry=harness.registry)
    async def on_loop(job: Job, session: AsyncSession) -> None:
        await session.run_sync(take_away, job.id)

    @job(name="in_thread", registry=harness.registry)
    def in_thread(job: Job, session: Session) -> None:
        take_away(session, job.id)

    (job_id,) = await harness.enqueue((on_loop if kind == "async" else in_thread).new())
    async with harness.runner():
        failed = await harness.becomes(job_id, "retryable")

    assert "changed the state of its own job in its session, or deleted the job" in failed.errors[0]["error"]
    assert await written(harness) == []
    assert of(telemetry.JobStale) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by_name", [False, True])
async def test_writes_in_another_database_are_refused_unless_they_are_allowed_by_name(
    harness: Harness, databases: Databases, kind: str, by_name: bool
) -> None:
    with databases.fresh() as url:
        elsewhere = create_async_engine(url)
        async with elsewhere.begin() as connection:
            await connection.execute(text("CREATE TABLE effects (n int PRIMARY KEY)"))
        sessions = async_sessionmaker(harness.engine, info={"oban_elsewhere": True} if by_name else {})
        there: dict[str, Any] = {"bind_arguments": {"bind": elsewhere.sync_engine}}

        @job(name="on_loop", registry=harness.registry)
        async def on_loop(session: AsyncSession, n: int) -> None:
            await session.execute(INSERT if n else text("SELECT n FROM effects"), {"n": n}, **there)
            await session.execute(text("SELECT 1"))

        @job(name="in_thread", registry=harness.registry)
        def in_thread(session: Session, n: int) -> None:
            session.execute(INSERT if n else text("SELECT n FROM effects"), {"n": n}, **there)
            session.execute(text("SELECT 1"))

        made = on_loop if kind == "async" else in_thread
        reads, writes = await harness.enqueue(made.new(0), made.new(1))
        await harness.drain(sessions=sessions)

        async with elsewhere.connect() as connection:
            kept = list(await connection.scalars(text("SELECT n FROM effects")))
        await elsewhere.dispose()

    assert (await harness.job(reads)).state == "completed"
    ran = await harness.job(writes)
    assert (ran.state, kept) == (("completed", [1]) if by_name else ("retryable", []))
    if not by_name:
        assert "JobElsewhere: the worker has written" in ran.errors[0]["error"]


@pytest.mark.parametrize("within", [[], [passes]], ids=["alone", "within middleware"])
@pytest.mark.parametrize("kind", KINDS)
async def test_what_listens_to_the_commit_sees_the_job_and_what_the_code_has_set(
    harness: Harness, effects: None, kind: str, within: list[Any]
) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen: list[tuple[int, str]] = []
    makes = sessionmaker()
    event.listen(makes, "before_commit", lambda _: seen.append((current_job().id, tenant.get())))

    def body(_: Job, session: Session) -> None:
        tenant.set("acme")
        session.execute(INSERT, {"n": 1})

    define(harness, kind, body)
    if kind == "async":

        @job(name="sets", registry=harness.registry)
        async def sets(session: AsyncSession) -> None:
            tenant.set("acme")
            await session.execute(INSERT, {"n": 1})

    [job_id] = await harness.enqueue(Job("sets" if kind == "async" else "worker"))
    await harness.drain(sessions=async_sessionmaker(harness.engine, sync_session_class=makes), middleware=within)
    assert seen == [(job_id, "acme")]


@pytest.mark.parametrize("kind", KINDS)
async def test_middleware_that_outlives_its_runner_keeps_no_connection_open(
    harness: Harness, effects: None, kind: str
) -> None:
    """The threads were let go by then, and there is no more to commit."""
    reached, release = asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[Any] | None] = []

    async def stubborn(job: Job, call_next: CallNext) -> Any:
        answer = await call_next()
        tasks.append(asyncio.current_task())
        reached.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        return answer

    define(harness, kind, lambda _, session: session.execute(INSERT, {"n": 1}) and None)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(middleware=[stubborn], grace=0):
        await reached.wait()
    release.set()
    assert tasks[0] is not None
    await tasks[0]
    await eventually(lambda: harness.engine.pool.checkedout() == 0)
    assert await written(harness) == []
    assert (await harness.job(job_id)).state == "available"


async def test_code_that_was_left_behind_closes_its_session_in_its_thread(harness: Harness, effects: None) -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    class Told(Session):
        def close(self) -> None:
            super().close()
            ended.set()

    @job(name="worker", registry=harness.registry)
    def stubborn(session: Told) -> None:
        session.execute(INSERT, {"n": 1})
        begun.set()
        while not release.is_set():
            with contextlib.suppress(AttemptCancelled):
                release.wait(20)

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0):
        await eventually(begun.is_set)
    assert harness.engine.pool.checkedout() == 1
    release.set()
    await eventually(ended.is_set)
    await eventually(lambda: harness.engine.pool.checkedout() == 0)
    assert await written(harness) == []
    assert (await harness.job(job_id)).state == "available"


async def test_an_error_after_the_commit_does_not_run_the_job_again(
    harness: Harness, effects: None, of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = async_sessionmaker(harness.engine, sync_session_class=sessionmaker())
    event.listen(sessions.kw["sync_session_class"], "after_commit", lambda _: 1 / 0)

    @job(registry=harness.registry)
    async def fine(session: AsyncSession) -> None:
        await session.execute(INSERT, {"n": 1})

    await harness.enqueue(fine.new())
    await harness.drain(sessions=sessions)
    assert await harness.states() == {"completed": 1}
    assert [event.state for event in of(telemetry.JobStop)] == ["completed"]
    assert of(telemetry.JobStale) == of(telemetry.JobException) == []
    assert "was committed, and an error came after that: ZeroDivisionError" in caplog.text
