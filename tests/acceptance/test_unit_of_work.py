"""The program that the product exists for, as a user writes it, with a driver of either kind."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from oban_sa import Job, JobState, enqueue, ref, worker


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "app_users"

    id: Mapped[int] = mapped_column(primary_key=True)


@worker(queue="mailers")
class SendWelcome:
    async def process(self, job: Job) -> None: ...


class Failed(Exception):
    pass


async def test_an_async_transaction_holds_data_and_job(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async with sessions.begin() as session:
        user = User()
        session.add(user)
        job = enqueue(session, SendWelcome.new({"user_id": ref(user)}, schedule_in=1))

    assert job.id
    async with sessions() as session:
        expect_stored(job, user, (await session.scalars(select(Job))).all())

    with pytest.raises(Failed):
        async with sessions.begin() as session:
            other = User()
            session.add(other)
            enqueue(session, SendWelcome.new({"user_id": ref(other)}, schedule_in=1))
            raise Failed

    async with AsyncSession(engine) as session:
        assert [found.id for found in await session.scalars(select(User))] == [user.id]
        assert [found.id for found in await session.scalars(select(Job))] == [job.id]


def test_a_sync_transaction_holds_data_and_job(sync_engine: Engine) -> None:
    Base.metadata.create_all(sync_engine)
    sessions = sessionmaker(sync_engine, expire_on_commit=False)

    with sessions.begin() as session:
        user = User()
        session.add(user)
        job = enqueue(session, SendWelcome.new({"user_id": ref(user)}, schedule_in=1))

    assert job.id
    with sessions() as session:
        expect_stored(job, user, session.scalars(select(Job)).all())

    with pytest.raises(Failed), sessions.begin() as session:
        other = User()
        session.add(other)
        enqueue(session, SendWelcome.new({"user_id": ref(other)}, schedule_in=1))
        session.flush()
        raise Failed

    with Session(sync_engine) as session:
        assert [found.id for found in session.scalars(select(User))] == [user.id]
        assert [found.id for found in session.scalars(select(Job))] == [job.id]


def expect_stored(job: Job, user: User, stored: Any) -> None:
    (only,) = stored
    assert only.id == job.id
    assert only.args == {"user_id": user.id}
    assert only.queue == "mailers"
    assert only.state == JobState.SCHEDULED
    assert only.scheduled_at == job.scheduled_at
    assert only.scheduled_at > only.inserted_at
