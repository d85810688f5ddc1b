"""What a transaction of an application costs: without us, with us imported and nothing enqueued, and with one job.

Its own process, since what is measured first is SQLAlchemy in a program that never imported oban_sa.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.turn import Turn, play


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


async def alone(turn: Turn) -> None:
    """The application's own row, in a program that does not know us."""
    turn.check("modules of oban_sa", [name for name in sys.modules if name.startswith("oban_sa")], [])
    await _transactions(turn, lambda session: None)


async def nothing(turn: Turn) -> None:
    """The same with us imported; nothing is enqueued."""
    import oban_sa

    turn.check("the version", bool(oban_sa), True)
    await _transactions(turn, lambda session: None)


async def one(turn: Turn) -> None:
    """The same and one job."""
    from oban_sa import enqueue, job

    @job(queue="bench", name="benchmarks.send")
    async def send(user_id: int) -> None: ...

    await _transactions(turn, lambda session: enqueue(session, send.new(1)))


async def _transactions(turn: Turn, also: Any) -> None:
    engine = create_async_engine(make_url(turn.url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def transactions(count: int) -> None:
        for number in range(count):
            async with sessions.begin() as session:
                session.add(Order(note=f"{number}"))
                also(session)

    counts: Counter[str] = Counter()

    def count(*_: Any) -> None:
        counts["statements"] += 1

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    await transactions(50)
    event.remove(engine.sync_engine, "before_cursor_execute", count)
    turn.ready()
    await transactions(turn.jobs)
    turn.done(statements=counts["statements"] / 50)
    await engine.dispose()


if __name__ == "__main__":
    play({"alone": alone, "nothing": nothing, "one": one}, "sqlalchemy", "asyncpg", "uvloop")
