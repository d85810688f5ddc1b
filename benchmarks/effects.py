"""Jobs that write with a session: their rows and their completion in one transaction, as session workers do.

The floor is a bare SQLAlchemy loop that fetches batches and for each job does the same writes and the same completion,
as many at once, with nothing else around it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
from sqlalchemy import Text, cast, func, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from benchmarks import filling, floor
from benchmarks.application import Base, Order
from benchmarks.turn import Turn, play
from benchmarks.working import engine_for
from oban_sa import Job, Runner, job, telemetry
from oban_sa.workers import Registry

registry = Registry()


@job(queue="bench", registry=registry, name=filling.WORKER)
async def written(session: AsyncSession) -> None:
    session.add(Order(note="by a job"))


async def bare(turn: Turn) -> None:
    """Batches fetched on one connection, a session for each job."""
    engine = await _prepared(turn)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    connection = await asyncpg.connect(turn.url)

    async def work(ids: Iterator[int]) -> None:
        for job_id in ids:
            async with sessions.begin() as session:
                session.add(Order(note="by a job"))
                await session.flush()
                done = (
                    update(Job)
                    .where(Job.id == job_id, cast(Job.state, Text) == "executing")
                    .values(state="completed", completed_at=func.timezone("UTC", func.clock_timestamp()))
                    .execution_options(synchronize_session=False)
                )
                await session.execute(done)

    turn.ready()
    while rows := await connection.fetch(floor.FETCH, 200, ["floor", "0"]):
        ids = iter([row["id"] for row in rows])
        await asyncio.gather(*(work(ids) for _ in range(turn.concurrency)))
    turn.done()
    await connection.close()
    await engine.dispose()
    await _check(turn)


async def ours(turn: Turn) -> None:
    """A runner with session workers."""
    engine = await _prepared(turn)
    ended = asyncio.Event()
    left = turn.jobs

    def stopped(_: telemetry.JobStop) -> None:
        nonlocal left
        left -= 1
        if not left:
            ended.set()

    detach = telemetry.attach(stopped, telemetry.JobStop)
    turn.ready()
    async with Runner(engine, queues={"bench": turn.concurrency}, registry=registry):
        async with asyncio.timeout(120):
            await ended.wait()
        turn.done()
    detach()
    await engine.dispose()
    await _check(turn)


async def _prepared(turn: Turn) -> Any:
    engine = engine_for(turn.url, pool_size=turn.concurrency, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await filling.fill(turn)
    return engine


async def _check(turn: Turn) -> None:
    await filling.check(turn)
    connection = await asyncpg.connect(turn.url)
    rows = await connection.fetchval("SELECT count(*) FROM bench_orders")
    await connection.close()
    turn.check("rows that jobs wrote", rows, turn.jobs)


if __name__ == "__main__":
    play({"bare": bare, "ours": ours}, "sqlalchemy", "asyncpg", "uvloop")
