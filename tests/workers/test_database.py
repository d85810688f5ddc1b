"""Workers' jobs in a session, in their row, and back in the workers' code."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

from oban_sa.errors import InvalidArguments
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue
from oban_sa.workers import Registry, Worker, job, worker

REGISTRY = Registry()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]


@dataclass
class Welcome:
    user_id: int
    token: UUID
    at: datetime | None = None


class WelcomeModel(pydantic.BaseModel):
    user_id: int


@worker(registry=REGISTRY, queue="mailers", tags=["mail"], meta={"team": "a"})
class Plain:
    async def process(self, job: Job) -> Any:
        return job.args


@worker(registry=REGISTRY)
class Typed(Worker[Welcome]):
    async def process(self, args: Welcome, job: Job) -> Any:
        return args


@worker(registry=REGISTRY)
class Modelled(Worker[WelcomeModel]):
    def process(self, args: WelcomeModel) -> Any:
        return args


@job(registry=REGISTRY, queue="exports")
async def export_report(job: Job, report_id: int, *, price: Decimal, token: UUID | None = None) -> Any:
    return report_id, price, token


@pytest.fixture
async def users(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def stored(sessions: async_sessionmaker[AsyncSession]) -> Job:
    """Return the only job, as a runner makes it of its row."""
    async with sessions() as session:
        rows = (await session.execute(select(Job.__table__))).mappings().all()
    assert len(rows) == 1
    return Job.from_row(rows[0])


async def performed(row: Job) -> Any:
    answer = REGISTRY.find(row.worker).call(row)
    return await answer if inspect.isawaitable(answer) else answer


@pytest.mark.usefixtures("users")
async def test_a_job_is_committed_with_the_user_that_it_names(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        session.add(user)
        made = enqueue(session, Plain.new({"user_id": ref(user), "to": ref(user, "email")}, schedule_in=1))
    assert made.id is not None
    assert made.state is JobState.SCHEDULED
    row = await stored(sessions)
    assert (row.id, row.queue, row.tags, row.meta) == (made.id, "mailers", ["mail"], {"team": "a"})
    assert await performed(row) == {"user_id": user.id, "to": "ada@example.com"}


@pytest.mark.usefixtures("users")
async def test_neither_exists_when_the_transaction_fails(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions() as session:
        user = User(email="ada@example.com")
        session.add(user)
        made = Typed.enqueue(session, Welcome(ref(user), UUID(int=1)))
        await session.flush()
        assert made.id is not None
        await session.rollback()
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(User)) == 0
        assert await session.scalar(select(func.count()).select_from(Job)) == 0


@pytest.mark.usefixtures("users")
async def test_typed_args_with_a_reference_come_back_typed(sessions: async_sessionmaker[AsyncSession]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        session.add(user)
        Typed.enqueue(session, Welcome(ref(user), UUID(int=1), at), priority=3)
    row = await stored(sessions)
    assert row.priority == 3
    assert row.args == {"user_id": user.id, "token": str(UUID(int=1)), "at": at.isoformat()}
    assert await performed(row) == Welcome(user.id, UUID(int=1), at)


@pytest.mark.usefixtures("users")
async def test_a_model_may_hold_a_reference_too(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        session.add(user)
        Modelled.enqueue(session, WelcomeModel.model_construct(user_id=ref(user)))
    assert await performed(await stored(sessions)) == WelcomeModel(user_id=user.id)


@pytest.mark.usefixtures("users")
async def test_a_call_with_a_reference_comes_back_as_a_call(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        session.add(user)
        made = export_report.options(queue="slow").enqueue(session, ref(user), price=Decimal("1.10"))
    assert made.id is not None
    row = await stored(sessions)
    assert row.queue == "slow"
    assert await performed(row) == (user.id, Decimal("1.10"), None)


@pytest.mark.usefixtures("users")
async def test_a_referenced_value_that_does_not_fit_fails_the_attempt(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        session.add(user)
        export_report.enqueue(session, ref(user, "email"), price=Decimal(1))
    with pytest.raises(InvalidArguments, match=r"args\.report_id must be a whole number, not 'ada@example\.com'"):
        await performed(await stored(sessions))


async def test_args_that_do_not_fit_leave_the_session_untouched(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        for mistake in (
            lambda: export_report.enqueue(session, "7", price=Decimal(1)),  # type: ignore[arg-type]
            lambda: Typed.enqueue(session, Welcome(1, "x")),  # type: ignore[arg-type]
            lambda: Plain.enqueue(session, {"price": float("nan")}),  # type: ignore[attr-defined]
        ):
            with pytest.raises(InvalidArguments, match=r"^args\."):
                mistake()
        assert not session.new
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 0


async def test_every_kind_of_session_is_taken(
    sessions: async_sessionmaker[AsyncSession], sync_sessions: sessionmaker[Session]
) -> None:
    token = UUID(int=1)
    async_scoped = async_scoped_session(sessions, scopefunc=lambda: None)
    Typed.enqueue(async_scoped, Welcome(1, token))
    await async_scoped.commit()
    await async_scoped.remove()

    scoped = scoped_session(sync_sessions)
    export_report.enqueue(scoped, 2, price=Decimal(1))
    scoped.commit()
    scoped.remove()

    with sync_sessions.begin() as session:
        Plain.enqueue(session, {"n": 3})  # type: ignore[attr-defined]

    async with sessions() as session:
        jobs = (await session.scalars(select(Job).order_by(Job.id))).all()
    assert [each.worker.rpartition(".")[2] for each in jobs] == ["Typed", "export_report", "Plain"]


async def test_the_longest_name_that_is_taken_fits_the_row(sessions: async_sessionmaker[AsyncSession]) -> None:
    @job(registry=REGISTRY, name="x" * 127)
    def longest() -> str:
        return "ran"

    async with sessions.begin() as session:
        longest.enqueue(session)
    assert await performed(await stored(sessions)) == "ran"
