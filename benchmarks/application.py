"""What a transaction of an application costs: without us, with us imported, with one job, and with a job about its row.

Its own process, since what is measured first is SQLAlchemy in a program that never imported oban_sa.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.turn import Turn, play

WARM = 50
"""Transactions before any is counted."""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


async def alone(turn: Turn) -> None:
    """The application's own row, in a program that does not know us."""
    turn.check("modules of oban_sa", [name for name in sys.modules if name.startswith("oban_sa")], [])
    await _transactions(turn, lambda session, order: None)


async def nothing(turn: Turn) -> None:
    """The same with us imported; nothing is enqueued."""
    import oban_sa

    turn.check("the version", bool(oban_sa), True)
    await _transactions(turn, lambda session, order: None)


async def one(turn: Turn) -> None:
    """The same and one job."""
    from oban_sa import enqueue, job

    @job(queue="bench", name="benchmarks.send")
    async def send(user_id: int) -> None: ...

    await _transactions(turn, lambda session, order: enqueue(session, send.new(1)))
    await _check(turn, "true")


async def referring(turn: Turn) -> None:
    """The same and one job that refers to the row, whose primary key the database makes."""
    from oban_sa import enqueue, job, ref

    @job(queue="bench", name="benchmarks.send")
    async def send(user_id: int) -> None: ...

    await _transactions(turn, lambda session, order: enqueue(session, send.new(ref(order))))
    await _check(turn, "EXISTS (SELECT FROM bench_orders WHERE id = CAST(args->>'user_id' AS integer))")


async def _check(turn: Turn, condition: str) -> None:
    """Refuse the figure where not each transaction has left a job of this kind."""
    connection = await asyncpg.connect(turn.url)
    found = await connection.fetchval(f"SELECT count(*) FROM oban_jobs WHERE {condition}")
    await connection.close()
    turn.check("jobs in the table", found, turn.jobs + WARM)


async def _transactions(turn: Turn, also: Callable[[AsyncSession, Order], object]) -> None:
    engine = create_async_engine(make_url(turn.url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def transactions(count: int) -> None:
        for number in range(count):
            async with sessions.begin() as session:
                order = Order(note=f"{number}")
                session.add(order)
                also(session, order)

    await transactions(WARM)
    turn.ready()
    await transactions(turn.jobs)
    turn.done()
    await engine.dispose()


if __name__ == "__main__":
    play({"alone": alone, "nothing": nothing, "one": one, "referring": referring}, "sqlalchemy", "asyncpg", "uvloop")
