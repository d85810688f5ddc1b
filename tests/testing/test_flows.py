"""Workflows run in tests as in a runner: in a transaction that is rolled back, behind an engine, and inline."""

from __future__ import annotations

from sqlalchemy import Engine, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa import Workflow, chain, enqueue
from oban_sa.models import Flow
from oban_sa.testing import drain, inline
from tests.testing.workers import add, cancel, follow, registry


def flow() -> Workflow:
    made = Workflow("tested")
    made.add("a", add.new(1))
    made.add("b", follow.new(depth=1), deps="a")
    made.add("c", cancel.new(), deps="b")
    made.add("d", add.new(2), deps="c")
    made.add("e", add.new(3), deps="d", forgive="cancelled")
    return made


async def test_a_workflow_of_the_open_transaction_runs_and_is_taken_back_with_it(
    session: AsyncSession, engine: AsyncEngine
) -> None:
    made = enqueue(session, flow())
    assert await drain(session, registry=registry) == {"completed": 4, "cancelled": 1}
    row = (await session.scalars(select(Flow).where(Flow.id == made.id))).one()
    assert (row.total, row.completed, row.cancelled, row.unfinished) == (5, 3, 2, 0)
    async with engine.connect() as connection:
        assert (await connection.execute(select(Flow.id))).all() == []


def test_a_synchronous_session_drains_a_workflow(sync_session: Session) -> None:
    made = enqueue(sync_session, chain(add.new(1), add.new(2)))
    assert drain(sync_session, registry=registry) == {"completed": 2}
    assert sync_session.get_one(Flow, made.id).completed_at is not None


async def test_a_committed_workflow_runs_behind_an_engine(
    sessions: async_sessionmaker[AsyncSession], engine: AsyncEngine, sync_engine: Engine
) -> None:
    async with sessions.begin() as session:
        enqueue(session, chain(add.new(1), add.new(2), add.new(3)))
    assert await drain(engine, registry=registry) == {"completed": 3}
    async with sessions.begin() as session:
        enqueue(session, chain(add.new(1), add.new(2), add.new(3)))


def test_a_committed_workflow_runs_behind_a_synchronous_engine(sync_engine: Engine) -> None:
    with Session(sync_engine) as session:
        enqueue(session, chain(add.new(1), add.new(2), add.new(3)))
        session.commit()
    assert drain(sync_engine, registry=registry) == {"completed": 3}


def test_a_workflow_runs_inline(sync_engine: Engine) -> None:
    with inline(registry=registry) as ran, Session(sync_engine) as session:
        enqueue(session, chain(add.new(1), add.new(2), add.new(3)))
        session.commit()
    assert ran.counts == {"completed": 3}
