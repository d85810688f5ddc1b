"""`await oban.enqueue_many(jobs, session=session)`: at once, in the session's own transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, event, func, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa import Job, JobState, Oban, enqueue, hooks, ref, schema_map
from oban_sa.bulk import insert as bulk
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, ReferenceOutsideSession, SessionEnded
from tests.bulk.alive import Alive
from tests.bulk.test_copy import loaded, told, various
from tests.clients import Ears, ears, stored
from tests.places import Base, User
from tests.support import sync_url


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[Ears]:
    async with ears(database_url) as heard:
        yield heard


@pytest.fixture
async def users(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def numbers(engine: AsyncEngine) -> list[int]:
    return [job.args["n"] for job in await loaded(engine)]


def numbered(count: int) -> Iterator[Job]:
    for number in range(count):
        yield Job("w", args={"n": number})


# Sessions of every kind, jobs of every kind


async def test_jobs_arrive_as_a_session_would_write_them(driven: AsyncEngine, engine: AsyncEngine) -> None:
    async with AsyncSession(driven) as session, session.begin():
        assert await Oban(driven).enqueue_many(various(), session=session) == 6
        assert list(session) == []
    direct = await loaded(driven)
    async with driven.begin() as connection:
        await connection.execute(text("TRUNCATE oban_jobs"))
    await stored(engine, *various())
    assert told(direct) == told(await loaded(driven))


async def test_generators_of_both_kinds_are_written_in_their_order(driven: AsyncEngine) -> None:
    async def later() -> AsyncIterator[Job]:
        for job in numbered(1_001):
            yield job

    oban = Oban(driven)
    async with AsyncSession(driven) as session, session.begin():
        assert await oban.enqueue_many(numbered(2_001), session=session) == 2_001
        assert await oban.enqueue_many(later(), session=session) == 1_001
        assert await oban.enqueue_many([], session=session) == 0
    assert await numbers(driven) == [*range(2_001), *range(1_001)]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
async def test_synchronous_sessions_of_every_driver_and_scoped_ones_are_sessions(
    engine: AsyncEngine, database_url: str, driver: str
) -> None:
    made = create_engine(sync_url(database_url, driver))
    oban = Oban(engine)
    scoped = scoped_session(sessionmaker(made))
    try:
        with Session(made) as session, session.begin():
            jobs = await oban.enqueue_many(various(), session=session, ids=True)
        assert await oban.enqueue_many([Job("w")], session=scoped) == 1
        scoped.commit()
    finally:
        scoped.remove()
        made.dispose()
    found = await loaded(engine)
    assert told(jobs) == told(found[:6])
    assert [job.id for job in jobs] == [job.id for job in found[:6]]
    assert len(found) == 7


async def test_an_asynchronous_scoped_session_is_a_session(engine: AsyncEngine) -> None:
    sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    assert await Oban(engine).enqueue_many(numbered(3), session=sessions) == 3
    assert await loaded(engine) == []
    await sessions.commit()
    await sessions.remove()
    assert await numbers(engine) == [0, 1, 2]


@pytest.mark.parametrize("session", [True, False])
async def test_with_ids_the_jobs_come_back_detached_and_as_their_rows_are(driven: AsyncEngine, session: bool) -> None:
    oban = Oban(driven)
    given = [*various(), *numbered(1_500), Job("past", attempt=1), Job("after")]
    if session:
        async with AsyncSession(driven) as own, own.begin():
            jobs = await oban.enqueue_many(iter(given), session=own, ids=True)
    else:
        jobs = await oban.enqueue_many(iter(given), ids=True)
    assert jobs == given
    found = await loaded(driven)
    for name in ("id", "inserted_at", "scheduled_at", "errors", "args", "state"):
        assert [getattr(job, name) for job in jobs] == [getattr(job, name) for job in found]
    assert all(inspect(job).detached and not inspect(job).unloaded for job in jobs)


async def test_jobs_with_a_past_or_an_id_are_written_too_in_order(driven: AsyncEngine, listening: Ears) -> None:
    entry = {"at": "2020-01-01T00:00:00Z", "attempt": 1, "error": "E: e"}
    jobs = [Job("first"), Job("second", errors=[entry], attempt=1, queue="past"), Job("third", id=77_000), Job("last")]
    async with AsyncSession(driven) as session, session.begin(), session.begin_nested():
        assert await Oban(driven).enqueue_many(jobs, session=session) == 4
    assert [job.worker for job in await loaded(driven)] == ["first", "second", "last", "third"]
    assert sorted(map(str, await listening.heard())) == sorted(
        str(("insert", {"queue": queue})) for queue in ("default", "past")
    )


# The session's transaction


async def test_jobs_are_rolled_back_with_the_transaction_and_with_a_savepoint(
    driven: AsyncEngine, listening: Ears
) -> None:
    oban = Oban(driven)
    async with AsyncSession(driven) as session:
        await oban.enqueue_many(numbered(3), session=session)
        await session.rollback()
        await oban.enqueue_many([Job("w", queue="kept", args={"n": 7})], session=session)
        savepoint = await session.begin_nested()
        await oban.enqueue_many([Job("w", queue="gone", args={"n": 8})], session=session)
        await savepoint.rollback()
        async with session.begin_nested():
            await oban.enqueue_many([Job("w", queue="released", args={"n": 9})], session=session)
        assert await listening.heard() == []
        await session.commit()
    assert await numbers(driven) == [7, 9]
    assert sorted(map(str, await listening.heard())) == [
        str(("insert", {"queue": queue})) for queue in ("kept", "released")
    ]


async def test_each_queue_is_announced_once_in_a_transaction_and_only_for_available_jobs(
    driven: AsyncEngine, listening: Ears
) -> None:
    jobs = [Job("w", queue=queue) for queue in "ab" * 1_000]
    async with AsyncSession(driven) as session, session.begin():
        oban = Oban(driven)
        await oban.enqueue_many(jobs, session=session)
        enqueue(session, Job("w", queue="a"))
        await oban.enqueue_many([Job("w", queue="a"), Job("w", queue="later", schedule_in=60)], session=session)
    assert await listening.heard() == [("insert", {"queue": queue}) for queue in "ab"]


async def test_announcements_can_be_off(driven: AsyncEngine, listening: Ears) -> None:
    async with AsyncSession(driven) as session, session.begin():
        await Oban(driven, announce=False).enqueue_many([Job("w"), Job("w", attempt=1)], session=session)
    async with AsyncSession(driven, info={"oban_announce": False}) as session, session.begin():
        await Oban(driven).enqueue_many([Job("w"), Job("w", attempt=1)], session=session)
    assert await listening.heard() == []


@pytest.mark.usefixtures("users")
async def test_what_is_pending_comes_first_and_references_are_filled_in(driven: AsyncEngine) -> None:
    async with AsyncSession(driven) as session, session.begin():
        user = User(email="ada@example.com")
        session.add(user)
        before = enqueue(session, Job("before"))
        jobs = [Job("w", args={"n": n, "user": ref(user)}, meta={"to": [ref(user, "email")]}) for n in range(120)]
        made = await Oban(driven).enqueue_many(jobs, session=session, ids=True)
        assert (made[0].args, made[0].meta) == ({"n": 0, "user": user.id}, {"to": ["ada@example.com"]})
        assert made[0].id > before.id
    assert [job.args.get("user") for job in await loaded(driven)] == [None] + [made[0].args["user"]] * 120


@pytest.mark.usefixtures("users")
async def test_references_without_a_value_are_refused(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    async with AsyncSession(driven, autoflush=False) as session:
        session.add(user := User())
        with pytest.raises(ReferenceOutsideSession, match="still has no key"):
            await oban.enqueue_many([Job("w", args={"user": ref(user)})], session=session)
        with pytest.raises(ReferenceOutsideSession, match=r"args\.user .* is in no session"):
            await oban.enqueue_many([Job("w"), Job("w", args={"user": ref(User())})], session=session)


async def test_a_generator_may_read_from_the_same_session(driven: AsyncEngine) -> None:
    async with driven.begin() as connection:
        await connection.execute(text("CREATE TABLE numbers AS SELECT n FROM generate_series(0, 2999) AS n"))

    async def found(session: AsyncSession) -> AsyncIterator[Job]:
        async for n in await session.stream_scalars(text("SELECT n FROM numbers ORDER BY n")):
            yield Job("w", args={"n": n})

    async with AsyncSession(driven) as session, session.begin():
        assert await Oban(driven).enqueue_many(found(session), session=session) == 3_000
    assert await numbers(driven) == list(range(3_000))


# What it costs


@pytest.mark.parametrize("ids", [True, False])
async def test_each_chunk_is_one_statement(driven: AsyncEngine, ids: bool) -> None:
    statements: list[str] = []
    event.listen(driven.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    async with AsyncSession(driven) as session, session.begin():
        await Oban(driven).enqueue_many(numbered(2_500), session=session, ids=ids)
    assert len(statements) == 3


async def test_jobs_that_differ_are_one_statement_too(driven: AsyncEngine) -> None:
    statements: list[str] = []
    event.listen(driven.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    jobs = [Job("w", args={"n": n}, priority=n % 10, schedule_in=n or None, tags=[str(n)]) for n in range(500)]
    async with AsyncSession(driven) as session, session.begin():
        await Oban(driven).enqueue_many(jobs, session=session)
    assert len(statements) == 1
    assert [(job.priority, job.tags) for job in await loaded(driven)] == [(job.priority, job.tags) for job in jobs]


async def test_a_generator_is_never_read_far_ahead(engine: AsyncEngine) -> None:
    alive = Alive()
    async with AsyncSession(engine) as session, session.begin():
        assert await Oban(engine).enqueue_many(alive.made(5_000), session=session) == 5_000
    assert alive.most <= bulk.TURN + 1  # of those before only the rows are kept


async def test_large_args_are_written_after_a_few(engine: AsyncEngine) -> None:
    sizes: list[int] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sizes.append(max(len(each) for each in parameters if isinstance(each, str)))

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    text_of_job = "x" * 20_000
    async with AsyncSession(engine) as session, session.begin():
        await Oban(engine).enqueue_many((Job("w", args={"x": text_of_job}) for _ in range(400)), session=session)
    assert len(sizes) > 5
    assert max(sizes) < bulk.BYTES + bulk.TURN * 20_100


# Hooks and refusals


async def test_hooks_see_each_job_once_and_may_change_what_is_written(driven: AsyncEngine) -> None:
    seen: list[Job] = []

    def mark(job: Job) -> None:
        seen.append(job)
        job.meta["trace"] = len(seen)

    remove = hooks.before_insert(mark)
    try:
        async with AsyncSession(driven) as session, session.begin():
            await Oban(driven).enqueue_many([Job("w"), Job("w", attempt=1), Job("w")], session=session)
    finally:
        remove()
    assert [job.meta for job in await loaded(driven)] == [{"trace": 1}, {"trace": 2}, {"trace": 3}]


@pytest.mark.parametrize("place", [0, 49, 50, 1_217])
async def test_a_refusal_says_which_job_and_where_in_it(engine: AsyncEngine, place: int) -> None:
    def made(bad: Callable[[], Any]) -> Iterator[Any]:
        for number in range(1_500):
            yield bad() if number == place else Job("w")

    def odd() -> Job:
        job = Job("w")
        job.queue = func.lower("Q")
        return job

    bads: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: Job("w", args={"x": [float("nan")]}), InvalidArguments, rf"^jobs\[{place}\]\.args\.x\[0\] is nan"),
        (lambda: Job("w", state=JobState.COMPLETED), InvalidJob, rf"^jobs\[{place}\]: a job that is completed"),
        (lambda: Job("w", priority=10), InvalidJob, rf"^jobs\[{place}\]: priority"),
        (lambda: "w", TypeError, rf"^jobs\[{place}\]: a Job is enqueued"),
        (odd, InvalidJob, rf"^jobs\[{place}\]: .* has a value that only a flush can write"),
    ]
    async with AsyncSession(engine) as session:
        for bad, kind, words in bads:
            with pytest.raises(kind, match=words):
                await Oban(engine).enqueue_many(made(bad), session=session)
            await session.rollback()
    assert await loaded(engine) == []


async def test_a_job_that_a_session_is_to_write_is_refused(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        waiting = enqueue(session, Job("w"))
        with pytest.raises(InvalidJob, match="is in a session, which will write it"):
            await Oban(engine).enqueue_many([waiting], session=session)
        await session.rollback()


async def test_what_is_no_session_is_refused(engine: AsyncEngine) -> None:
    for wrong in (engine, async_sessionmaker(engine), "session", AsyncSession):
        with pytest.raises(TypeError, match=r"session must be a Session or an AsyncSession, got .*; open one"):
            await Oban(engine).enqueue_many([Job("w")], session=wrong)  # type: ignore[call-overload]


async def test_a_session_of_another_database_or_schema_is_refused(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    other = create_async_engine(engine.url.set(database="elsewhere"))
    far = create_async_engine(engine.url.set(host="example.org"))
    lite = create_engine("sqlite://")
    tenant = engine.execution_options(schema_translate_map=schema_map("tenant"))
    for session, words in (
        (AsyncSession(other), "elsewhere.*use the Oban of the session's engine"),
        (AsyncSession(far), r"example\.org"),
        (Session(lite), "this session speaks to sqlite"),
        (AsyncSession(tenant), r"schema 'tenant' and this Oban in 'public'.*schema_map\('public'\)"),
    ):
        with pytest.raises(InvalidOption, match=words):
            await oban.enqueue_many([Job("w")], session=session)


async def test_a_session_whose_transaction_has_failed_is_refused(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    async with AsyncSession(driven) as session:
        with pytest.raises(DBAPIError):
            await session.execute(text("SELECT 1 / 0"))
        with pytest.raises(SessionEnded, match=r"a statement has failed in the transaction.*session\.rollback\(\)"):
            await oban.enqueue_many([Job("w")], session=session)
        await session.rollback()
        session.add(Job("w", id=1))
        await session.flush()
        session.add(Job("w", id=1))
        session.expunge_all()
        session.add(Job("w", id=1))
        with pytest.raises(DBAPIError):
            await session.flush()
        with pytest.raises(SessionEnded, match=r"write session\.rollback\(\) first"):
            await oban.enqueue_many([Job("w")], session=session)
        await session.rollback()
        assert await oban.enqueue_many([Job("w")], session=session) == 1
        await session.commit()


async def test_a_job_with_a_past_that_is_refused_leaves_the_transaction_as_it_was(driven: AsyncEngine) -> None:
    await stored(driven, Job("there", id=77))
    async with AsyncSession(driven) as session, session.begin():
        oban = Oban(driven)
        await oban.enqueue_many([Job("kept")], session=session)
        with pytest.raises(DBAPIError):
            await oban.enqueue_many([Job("again", id=77)], session=session)
    assert [job.worker for job in await loaded(driven)] == ["kept", "there"]


async def test_a_call_that_fails_can_be_taken_back_by_a_savepoint(driven: AsyncEngine) -> None:
    def broken() -> Iterator[Job]:
        yield from numbered(2_000)
        raise LookupError("gone")

    async with AsyncSession(driven) as session, session.begin():
        await Oban(driven).enqueue_many([Job("w", args={"n": 7})], session=session)
        with pytest.raises(LookupError):
            async with session.begin_nested():
                await Oban(driven).enqueue_many(broken(), session=session)
    assert await numbers(driven) == [7]
