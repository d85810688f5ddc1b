"""Unique jobs without a session, many of them, and in sessions, tables and schemas of every kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Engine, create_engine, func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa import Conflict, Job, JobState, Oban, Unique, enqueue, enqueue_many, ref, schema_map
from oban_sa.errors import InvalidOption
from oban_sa.migrations import migrate
from oban_sa.workers import Registry, job, worker
from tests.clients import Ears, ears
from tests.places import Base, User
from tests.support import plain_url, sync_url

SCHEMAS = Path(__file__).parent.parent / "migrations"


def a_job(key: object = 1, **options: Any) -> Job:
    return Job("app.Work", args={"key": key}, **{"unique": True, **options})


@pytest.fixture
async def listening(database_url: str) -> AsyncIterator[Ears]:
    async with ears(database_url) as heard:
        yield heard


async def count(engine: AsyncEngine, schema: str = "public") -> int:
    async with engine.connect() as connection:
        found: int = (await connection.execute(text(f"SELECT count(*) FROM {schema}.oban_jobs"))).scalar_one()
        return found


# without a session, and many at once


async def test_a_single_job_is_unique(driven: AsyncEngine, listening: Ears) -> None:
    oban = Oban(driven)
    first, second = await oban.enqueue(a_job()), await oban.enqueue(a_job(priority=3))
    assert first.conflict is None
    assert second.conflict == Conflict(first.id, JobState.AVAILABLE)
    assert (second.id, second.priority, second.inserted_at) == (first.id, 0, first.inserted_at)
    assert inspect(second).detached
    assert await count(driven) == 1
    assert len(await listening.heard()) == 1


async def test_single_jobs_of_one_key_at_once_are_one(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    jobs = await asyncio.gather(*(oban.enqueue(a_job(turn // 10)) for turn in range(30)))
    assert Counter(job.args["key"] for job in jobs if job.conflict is None) == Counter({0: 1, 1: 1, 2: 1})
    assert len({job.id for job in jobs}) == await count(driven) == 3


async def test_many_in_a_session_say_how_many_were_new(driven: AsyncEngine, listening: Ears) -> None:
    async with driven.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    oban = Oban(driven)
    async with AsyncSession(driven) as session, session.begin():
        assert await oban.enqueue_many([a_job(n % 3) for n in range(7)], session=session) == 3
        jobs = await oban.enqueue_many([a_job(n) for n in range(2, 5)], session=session, ids=True)
        assert [job.conflict is None for job in jobs] == [False, True, True]
        user = User(email="x")
        session.add(user)
        pair = [a_job([ref(user)]), a_job(0)]
        assert await oban.enqueue_many(pair, session=session) == 1
        assert pair[0].args == {"key": [user.id]} and pair[1].conflict is not None
    assert await count(driven) == 6
    assert len(await listening.heard()) == 1
    async with AsyncSession(driven) as session, session.begin():
        assert await oban.enqueue_many([a_job(n) for n in range(3)], session=session) == 0
    assert await listening.heard() == []


async def test_without_a_session_but_with_ids_as_well(driven: AsyncEngine) -> None:
    jobs = await Oban(driven).enqueue_many([a_job(n % 2) for n in range(4)], ids=True)
    assert jobs[2].conflict == Conflict(jobs[0].id, JobState.AVAILABLE)
    assert [job.id for job in jobs] == [jobs[0].id, jobs[1].id] * 2
    assert jobs[3].inserted_at == jobs[1].inserted_at


# sessions


async def test_sessions_of_every_kind(engine: AsyncEngine, sync_engine: Engine) -> None:
    first = await Oban(engine).enqueue(a_job())
    asynchronous = async_sessionmaker(engine)
    async with asynchronous.begin() as session:
        job = enqueue(session, a_job())
        await session.flush()
        assert job.conflict == Conflict(first.id, JobState.AVAILABLE)
        await session.refresh(job)
    assert job.id == first.id
    scoped = async_scoped_session(asynchronous, asyncio.current_task)
    job = enqueue(scoped, a_job())
    await scoped.commit()
    assert job.id == first.id
    await scoped.remove()

    synchronous = sessionmaker(sync_engine, expire_on_commit=False)
    with synchronous.begin() as session:
        job = enqueue(session, a_job())
    assert (job.id, job.state) == (first.id, JobState.AVAILABLE)
    threaded = scoped_session(synchronous)
    [job] = enqueue_many(threaded, [a_job()])
    threaded.commit()
    assert job.id == first.id
    threaded.remove()


def test_a_merged_job_is_unique_too(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        first, second = session.merge(a_job()), session.merge(a_job())
        session.commit()
        assert first.id == second.id
        assert session.scalar(select(func.count(Job.id))) == 1


def test_a_session_with_shards(sync_engine: Engine) -> None:
    made = ShardedSession(
        shards={"one": sync_engine, "two": sync_engine.execution_options(pool="other")},
        shard_chooser=lambda mapper, instance, clause=None: "one",
        identity_chooser=lambda *args, **more: ["one"],
        execute_chooser=lambda context: ["one"],
    )
    with made as session:
        first = enqueue(session, a_job())
        session.commit()
        second = enqueue(session, a_job())
        third = enqueue(session, a_job(3))
        session.commit()
        assert (first.conflict, second.id, third.conflict) == (None, first.id, None)
        session.refresh(third)


class Special(Job):
    """A job of the application's own class."""


def test_a_subclass_of_job(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        first, second = (Special("app.Work", unique=True) for _ in range(2))
        session.add(first)
        session.commit()
        session.add(second)
        session.commit()
        assert second.id == first.id and second.conflict is not None


# tables


async def test_another_schema(engine: AsyncEngine, sync_engine: Engine) -> None:
    with sync_engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA jobs"))
        migrate(connection, schema="jobs")
    first = await Oban(engine).enqueue(a_job())
    oban = Oban(engine, schema="jobs")
    second, third = await oban.enqueue(a_job()), await oban.enqueue(a_job())
    assert (first.conflict, second.conflict) == (None, None)
    assert third.conflict == Conflict(second.id, JobState.AVAILABLE)
    with Session(sync_engine.execution_options(schema_translate_map=schema_map("jobs"))) as session:
        job = enqueue(session, a_job())
        session.commit()
        assert job.conflict == third.conflict
    assert (await count(engine), await count(engine, "jobs")) == (1, 1)


@pytest.mark.parametrize("family", ["elixir_v14", "python_0_7"])
async def test_the_tables_of_either_family(empty_database_url: str, family: str) -> None:
    raw = await asyncpg.connect(plain_url(empty_database_url))
    await raw.execute((SCHEMAS / f"{family}.sql").read_text())
    await raw.close()
    engine = create_engine(sync_url(empty_database_url))
    with engine.begin() as connection:
        migrate(connection)
    with Session(engine) as session:
        jobs = enqueue_many(session, [a_job(n % 3) for n in range(5)])
        session.commit()
        again = enqueue(session, a_job(2))
        session.commit()
        assert [job.conflict is None for job in jobs] == [True, True, True, False, False]
        assert again.id == jobs[2].id
        plain = enqueue(session, a_job(2, unique=False))
        session.commit()
        assert plain.id > jobs[2].id
    engine.dispose()


# workers


def test_workers_say_that_their_jobs_are_unique_and_each_job_may_differ() -> None:
    registry = Registry()
    rule = Unique(keys=["a"])

    @job(registry=registry, unique=True)
    async def function(a: int) -> None: ...

    @worker(registry=registry, unique=rule)
    class Class:
        async def process(self, job: Job) -> None: ...

    @job(registry=registry)
    async def plain(a: int) -> None: ...

    new: Any = Class

    def of(made: Job) -> Unique | None:
        return vars(made).get("_unique")

    assert of(function.new(1)) == Unique()
    assert of(function.options(priority=1).new(1)) == Unique()
    assert of(function.options(unique=rule).new(1)) is rule
    assert of(function.options(unique=False).new(1)) is None
    assert of(function.options(unique=None).new(1)) is None
    assert of(new.new({"a": 1})) is rule
    assert of(new.new({"a": 1}, unique=True)) == Unique()
    assert "_unique" not in vars(plain.new(1)) and "conflict" not in vars(plain.new(1))
    assert of(plain.options(unique=True).new(1)) == Unique()
    with pytest.raises(InvalidOption, match="unique is True or Unique"):
        job(registry=registry, unique="args")  # type: ignore[call-overload]
    with pytest.raises(InvalidOption, match="unique is True or Unique"):
        plain.options(unique=7).new(1)  # type: ignore[typeddict-item]
