"""A job that its session never writes is refused where that is known, and told of where the session ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa import Job, JobState, enqueue, enqueue_many, job
from oban_sa.errors import JobNeverWritten, SessionEnded
from oban_sa.testing import drain, inline
from oban_sa.workers import Registry
from tests.support import sync_url


@pytest.fixture(scope="module")
def nowhere() -> Iterator[Engine]:
    """Nothing here reaches a database, but for what asks for one."""
    made = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    yield made
    made.dispose()


@pytest.fixture
def sessions(nowhere: Engine) -> sessionmaker[Session]:
    return sessionmaker(nowhere)


@pytest.fixture
def async_sessions() -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none"))


def a_job() -> Job:
    return Job("app.Work", args={"n": 7})


# Refused


@pytest.mark.parametrize("with_inline", [False, True])
def test_after_the_commit_or_the_rollback_a_job_is_refused_where_it_is_enqueued(
    database_url: str, with_inline: bool
) -> None:
    engine = create_engine(sync_url(database_url))
    with inline() if with_inline else contextlib.nullcontext(), Session(engine) as session:
        refused: list[str] = []

        def late(session: Session) -> None:
            with pytest.raises(SessionEnded) as caught:
                enqueue(session, a_job())
            refused.append(str(caught.value))

        for name in ("after_commit", "after_rollback"):
            event.listen(session, name, late)
        session.add(Job("app.Work", state="completed"))
        session.commit()
        session.connection()
        session.rollback()
        assert not session.new
    assert [text.partition(",")[0] for text in refused] == [
        "this session has just committed",
        "the transaction of this session is rolled back or can't go on",
    ]
    assert "Session(session.get_bind()) as later, later.begin()" in refused[0]
    engine.dispose()


def test_what_the_message_says_to_write_after_a_commit_writes_the_job(sync_engine: Engine) -> None:
    def late(session: Session) -> None:
        with Session(session.get_bind()) as later, later.begin():
            enqueue(later, Job("app.Late"))

    with Session(sync_engine) as session:
        event.listen(session, "after_commit", late)
        session.connection()
        session.commit()
    with Session(sync_engine) as session:
        assert session.query(Job).one().worker == "app.Late"


def test_a_savepoint_that_is_released_may_still_be_followed_by_jobs(sync_engine: Engine) -> None:
    with Session(sync_engine) as session, session.begin():
        enqueued: list[Job] = []
        event.listen(session, "after_commit", lambda _: enqueued or enqueued.append(enqueue(session, a_job())))
        with session.begin_nested():
            session.connection()
    assert enqueued[0].id


def test_a_session_that_has_to_be_rolled_back_takes_no_job_before(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        session.add(Job("app.Work", state="completed", id=1_000))
        session.commit()
        session.add(Job("app.Work", state="completed", id=1_000))
        with pytest.raises(Exception, match="oban_jobs_pkey"):
            session.flush()
        with pytest.raises(SessionEnded, match=r"session\.rollback\(\) first"):
            enqueue_many(session, [a_job()])
        session.rollback()
        enqueue(session, a_job())
        session.commit()


# Told of


def test_a_session_that_is_closed_with_a_job_tells_of_it_once_at_the_line_that_closes(
    sessions: sessionmaker[Session],
) -> None:
    words = r"Job\(id=None, worker=Work.*that is closed.*with sessions.begin"
    with pytest.warns(JobNeverWritten, match=words) as told, sessions() as session:
        enqueue_many(session, [a_job(), a_job()])
    assert [each.filename for each in told] == [__file__]


def _after_its_block(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        pass
    enqueue(session, a_job())


def _closed(sessions: sessionmaker[Session]) -> None:
    session = sessions()
    enqueue(session, a_job())
    session.close()


def _removed(sessions: sessionmaker[Session]) -> None:
    scoped = scoped_session(sessions)
    enqueue(scoped, a_job())
    scoped.remove()


def _never_closed(sessions: sessionmaker[Session]) -> None:
    enqueue(sessions(), a_job())


def _closed_again(sessions: sessionmaker[Session]) -> None:
    session = sessions()
    enqueue(session, a_job())
    session.rollback()
    enqueue(session, a_job())
    session.reset()


@pytest.mark.parametrize("lose", [_after_its_block, _closed, _removed, _never_closed, _closed_again])
def test_however_a_session_ends_a_job_that_it_never_wrote_is_told_of(
    sessions: sessionmaker[Session], lose: Callable[[sessionmaker[Session]], None]
) -> None:
    with pytest.warns(JobNeverWritten) as told:  # noqa: PT031
        lose(sessions)
        gc.collect()
    assert len(told) == 1


def _in_a_block(session: Session) -> None:
    with session:
        enqueue(session, a_job())
        raise LookupError


def _in_finally(session: Session) -> None:
    try:
        enqueue(session, a_job())
        raise LookupError
    finally:
        session.close()


def _in_a_teardown_that_is_told_of_the_error(session: Session) -> None:
    error: LookupError | None = None
    try:
        enqueue(session, a_job())
        raise LookupError
    except LookupError as caught:
        error = caught
    session.close()
    raise error


def _rolled_back(session: Session) -> None:
    with session:
        enqueue_many(session, [a_job(), a_job()])
        session.rollback()
        raise LookupError


def _expunged(session: Session) -> None:
    with session:
        job = enqueue(session, a_job())
        session.expunge(job)
    raise LookupError


def _all_expunged(session: Session) -> None:
    with session:
        enqueue_many(session, [a_job(), a_job()])
        session.expunge_all()
    raise LookupError


def _in_a_savepoint(session: Session) -> None:
    with session, contextlib.suppress(KeyError):
        nested = session.begin()
        enqueue(session, a_job())
        nested.rollback()
    raise LookupError


@pytest.mark.parametrize(
    "leave",
    [
        _in_a_block,
        _in_finally,
        _in_a_teardown_that_is_told_of_the_error,
        _rolled_back,
        _expunged,
        _all_expunged,
        _in_a_savepoint,
    ],
)
def test_an_error_or_an_end_that_was_meant_is_no_alarm(
    sessions: sessionmaker[Session], leave: Callable[[Session], None]
) -> None:
    with pytest.raises(LookupError):
        leave(sessions())
    gc.collect()


def test_a_job_that_stays_behind_one_that_was_expunged_is_told_of(sessions: sessionmaker[Session]) -> None:
    with pytest.warns(JobNeverWritten, match="worker=First"), sessions() as session:  # noqa: PT031
        enqueue(session, Job("app.First"))
        session.expunge(enqueue(session, Job("app.Second")))


def test_a_session_that_wrote_its_jobs_says_nothing_whatever_became_of_its_transaction(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        enqueue(session, a_job())
        session.flush()
    with Session(sync_engine) as session:
        enqueue(session, a_job())
        session.commit()
        session.add(a_job())  # SQLAlchemy's own way, with its own rules


# Asynchronous sessions


async def test_an_asynchronous_session_that_is_closed_with_a_job_tells_of_it(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    with pytest.warns(JobNeverWritten, match="closed") as told:
        async with async_sessions() as session:
            enqueue(session, a_job())
    assert len(told) == 1
    with pytest.warns(JobNeverWritten):  # noqa: PT031
        enqueue(session, a_job())
        await session.close()


async def test_an_error_that_leaves_an_asynchronous_block_is_no_alarm(
    async_sessions: async_sessionmaker[AsyncSession],
) -> None:
    async def in_a_block() -> None:
        async with async_sessions() as session:
            enqueue(session, a_job())
            raise LookupError

    async def in_a_dependency() -> None:
        async def dependency() -> AsyncIterator[AsyncSession]:
            async with async_sessions() as session:
                yield session

        async with contextlib.asynccontextmanager(dependency)() as session:
            enqueue(session, a_job())
            raise LookupError

    async def in_a_dependency_that_closes_by_hand() -> None:
        async def dependency() -> AsyncIterator[AsyncSession]:
            session = async_sessions()
            try:
                yield session
            finally:
                await session.close()

        async with contextlib.asynccontextmanager(dependency)() as session:
            enqueue(session, a_job())
            raise LookupError

    async def in_a_task() -> None:
        await asyncio.gather(in_a_dependency())

    for leave in (in_a_block, in_a_dependency, in_a_dependency_that_closes_by_hand, in_a_task):
        with pytest.raises(LookupError):
            await leave()
    gc.collect()


async def test_a_cancelled_task_raises_no_alarm(async_sessions: async_sessionmaker[AsyncSession]) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with async_sessions() as session:
            enqueue(session, a_job())
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gc.collect()


def test_the_warning_can_be_made_an_error_which_keeps_no_connection_and_switched_off(
    sync_engine: Engine, sessions: sessionmaker[Session]
) -> None:
    session = Session(sync_engine)
    enqueue(session, a_job())
    session.connection()
    with pytest.raises(JobNeverWritten):  # as it is in these tests
        session.close()
    assert sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JobNeverWritten)
        _closed(sessions)


async def test_an_attempt_that_fails_with_a_job_in_its_session_says_nothing_more(engine: AsyncEngine) -> None:
    mine = Registry()

    @job(registry=mine)
    async def on_loop(session: AsyncSession) -> None:
        enqueue(session, a_job())
        raise LookupError("loop")

    @job(registry=mine)
    def in_thread(session: Session) -> None:
        enqueue(session, a_job())
        raise LookupError("thread")

    async with AsyncSession(engine) as session, session.begin():
        enqueue_many(session, [on_loop.new(), in_thread.new()])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ended = await drain(engine, registry=mine, with_safety=True)
    assert ended == {JobState.RETRYABLE: 2}
    assert told == []
