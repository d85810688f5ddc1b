"""What handlers of telemetry are told of jobs: those that are committed, whichever way they came, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Unique, enqueue, enqueue_many, enqueue_select, job, telemetry
from oban_sa.outbox import enqueued
from oban_sa.outbox.outbox import Outbox
from oban_sa.workers.registry import Registry
from tests.factories import a_job
from tests.places import AppDatabase

REGISTRY = Registry()
NUMBERS = [select(literal(number).label("number")) for number in (9, 8, 3)]
"""Selects of one row."""


@job(name="mail", queue="mailers", registry=REGISTRY)
def mail(number: int) -> None: ...


@job(name="once", unique=Unique(fields=("worker", "args")), registry=REGISTRY)
def once(number: int) -> None: ...


@pytest.fixture
def told() -> Iterator[list[tuple[str, str, int]]]:
    """Queue, worker and count of what was told."""
    found: list[tuple[str, str, int]] = []

    def take(event: telemetry.JobsEnqueued) -> None:
        found.append((event.queue, event.worker, event.count))

    detach = telemetry.attach(take, telemetry.JobsEnqueued)
    yield found
    detach()


def test_a_commit_tells_how_many_jobs_of_each_worker_it_brought_to_each_queue(
    app_db: AppDatabase, told: list[tuple[str, str, int]]
) -> None:
    def work(session: Session) -> None:
        enqueue_many(session, [mail.new(1), mail.new(2), a_job()])
        session.flush()
        enqueue(session, mail.new(3))
        session.flush()
        assert told == []
        session.commit()

    app_db.run(work)
    assert sorted(told) == [("default", "app.Work", 1), ("mailers", "mail", 3)]


def test_jobs_that_the_mapper_writes_are_told_of(app_db: AppDatabase, told: list[tuple[str, str, int]]) -> None:
    def work(session: Session) -> None:
        session.add_all([Job(id=7, worker="mail", queue="mailers"), mail.new(1)])
        session.commit()

    app_db.run(work)
    assert told == [("mailers", "mail", 2)]


def test_what_is_rolled_back_is_never_told_of(app_db: AppDatabase, told: list[tuple[str, str, int]]) -> None:
    def work(session: Session) -> None:
        enqueue(session, mail.new(1))
        session.flush()
        session.rollback()
        enqueue(session, mail.new(2))
        session.commit()

    app_db.run(work)
    assert told == [("mailers", "mail", 1)]


def test_a_savepoint_tells_with_the_transaction_and_not_where_it_is_rolled_back(
    app_db: AppDatabase, told: list[tuple[str, str, int]]
) -> None:
    def work(session: Session) -> None:
        with session.begin_nested():
            enqueue(session, mail.new(1))
            with session.begin_nested() as inner:
                enqueue_many(session, [mail.new(2), mail.new(3)])
                session.flush()
                inner.rollback()
            with session.begin_nested():
                enqueue(session, mail.new(4))
        assert told == []
        session.begin_nested()  # which nothing releases but the commit
        enqueue(session, mail.new(5))
        session.commit()

    app_db.run(work)
    assert told == [("mailers", "mail", 3)]


def test_a_job_in_whose_way_another_stands_is_not_told_of(
    app_db: AppDatabase, told: list[tuple[str, str, int]]
) -> None:
    def work(session: Session) -> None:
        enqueue_many(session, [once.new(1), once.new(2), once.new(1)])
        session.commit()
        enqueue(session, once.new(2))
        session.commit()

    app_db.run(work)
    assert told == [("default", "once", 2)]


def test_a_job_that_is_stored_as_finished_is_not_told_of(app_db: AppDatabase, told: list[tuple[str, str, int]]) -> None:
    def work(session: Session) -> None:
        session.add(Job(worker="mail", state="completed"))
        session.commit()

    app_db.run(work)
    assert told == []


def test_a_session_that_joins_the_transaction_of_another_tells_nothing(
    app_db: AppDatabase, told: list[tuple[str, str, int]]
) -> None:
    def inside(session: Session) -> None:
        connection = session.connection()
        for mode in ("create_savepoint", "rollback_only"):
            with Session(connection, join_transaction_mode=mode) as own:
                enqueue(own, mail.new(1))
                own.commit()
        session.rollback()

    app_db.run(inside)
    assert told == []


def test_a_session_on_a_connection_without_a_transaction_tells(
    sync_engine_of: Connection, told: list[tuple[str, str, int]]
) -> None:
    with Session(sync_engine_of) as session:
        enqueue(session, mail.new(1))
        session.commit()
    assert told == [("mailers", "mail", 1)]


@pytest.fixture
def sync_engine_of(app_db: AppDatabase) -> Iterator[Connection]:
    if app_db.driver == "asyncpg":
        pytest.skip("a connection of an asynchronous engine is used within a greenlet")
    with app_db.engine.connect() as connection:
        yield connection


async def test_every_way_in_is_told_of(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], told: list[tuple[str, str, int]]
) -> None:
    oban = Oban(engine)

    def taken() -> list[tuple[str, str, int]]:
        found, told[:] = sorted(told), []
        return found

    await oban.enqueue(mail.new(1))
    assert taken() == [("mailers", "mail", 1)]
    await oban.enqueue(once.new(1))
    assert taken() == [("default", "once", 1)]
    await oban.enqueue_many([mail.new(number) for number in range(300)])
    assert taken() == [("mailers", "mail", 300)]
    await oban.enqueue_many([mail.new(2), once.new(1), once.new(2), Job(id=10**6, worker="mail")])
    assert taken() == [("default", "mail", 1), ("default", "once", 1), ("mailers", "mail", 1)]
    async with sessions.begin() as session:
        await oban.enqueue_many([mail.new(3), once.new(3), once.new(3), mail.new(4)], session=session)
        assert told == []
    assert taken() == [("default", "once", 1), ("mailers", "mail", 2)]
    async with sessions.begin() as session:
        await enqueue_select(session, mail, union_all(*NUMBERS[:2]))
        await enqueue_select(session, once, union_all(*NUMBERS))
        assert told == []
    assert taken() == [("default", "once", 2), ("mailers", "mail", 2)]


async def test_what_fails_is_told_of_by_no_way(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], told: list[tuple[str, str, int]]
) -> None:
    oban = Oban(engine)

    def broken() -> Iterator[Job]:
        yield mail.new(1)
        raise LookupError("no more")

    with pytest.raises(LookupError):
        await oban.enqueue_many(broken())
    async with sessions() as session:
        await oban.enqueue_many([mail.new(3), once.new(3)], session=session)
        await enqueue_select(session, mail, select(literal(9).label("number")))
        await session.rollback()
    assert told == []


def test_where_nothing_listens_nothing_is_counted(app_db: AppDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a job was counted")

    monkeypatch.setattr(enqueued, "add_jobs", never)

    def work(session: Session) -> None:
        enqueue_many(session, [mail.new(1), once.new(1)])
        session.commit()
        outbox = Outbox.found(session)
        assert outbox is not None
        assert outbox._enqueued is None

    app_db.run(work)


def test_the_event_names_the_program_and_the_schema(app_db: AppDatabase) -> None:
    found: list[telemetry.JobsEnqueued] = []
    detach = telemetry.attach(found.append, telemetry.JobsEnqueued)

    def work(session: Session) -> None:
        enqueue(session, mail.new(1))
        session.commit()

    try:
        app_db.run(work)
    finally:
        detach()
    [event] = found
    assert (event.runner.name, event.runner.schema, event.name) == ("Oban", "public", "oban.job.enqueued")
    assert event.runner.node
