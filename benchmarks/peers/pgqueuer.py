"""PgQueuer, https://pypi.org/project/pgqueuer: batches as large as the concurrency, on asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.lone import WARM, Enqueue, Lone, kinds_of
from benchmarks.turn import Turn, play

executed: list[int] = []
lone = Lone()


@asynccontextmanager
async def queries_of(turn: Turn) -> AsyncIterator[Queries]:
    connection = await asyncpg.connect(turn.url)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    yield queries
    await connection.close()


async def count(turn: Turn, query: str) -> int:
    connection = await asyncpg.connect(turn.url)
    found: int = await connection.fetchval(query)
    await connection.close()
    return found


async def drain(turn: Turn) -> None:
    async with queries_of(turn) as queries:
        await queries.enqueue(["nothing"] * turn.jobs, [None] * turn.jobs, [0] * turn.jobs)
    connection = await asyncpg.connect(turn.url)
    pgq = PgQueuer(AsyncpgDriver(connection))

    @pgq.entrypoint("nothing")
    async def nothing(job: Job) -> None:
        executed.append(job.id)

    turn.ready()
    await pgq.run(batch_size=turn.concurrency, mode=QueueExecutionMode.drain)
    turn.done()
    await connection.close()
    turn.once(executed)
    done = "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'"
    turn.check("completed", await count(turn, done), turn.jobs)


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    connection = await asyncpg.connect(turn.url)
    queries = Queries(AsyncpgDriver(connection))

    async def enqueue(asks: Callable[[], None]) -> None:
        async with connection.transaction():
            await queries.enqueue("waited", None)
            asks()

    yield enqueue
    await connection.close()


async def latency(turn: Turn) -> None:
    async with queries_of(turn):
        connection = await asyncpg.connect(turn.url)
        pgq = PgQueuer(AsyncpgDriver(connection))

        @pgq.entrypoint("waited")
        async def waited(job: Job) -> None:
            lone.arrived()

        turn.ready()
        running = asyncio.create_task(pgq.run(batch_size=10))
        await asyncio.sleep(0.5)
        await lone.measure(turn, application)
        turn.done(samples=lone.samples)
        await asyncio.sleep(0.5)
        pgq.shutdown.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(running, 35)
        await connection.close()
    done = "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'"
    turn.check("completed", await count(turn, done), turn.jobs + WARM)


async def enqueue_one(turn: Turn) -> None:
    async with queries_of(turn) as queries:
        turn.ready()
        for number in range(turn.jobs):
            await queries.enqueue("nothing", b'{"user_id":%d}' % number)
        turn.done()
    turn.check("written", await count(turn, "SELECT count(*) FROM pgqueuer"), turn.jobs)


async def enqueue_many(turn: Turn) -> None:
    async with queries_of(turn) as queries:
        turn.ready()
        payloads = [b'{"user_id":%d}' % number for number in range(turn.jobs)]
        await queries.enqueue(["nothing"] * turn.jobs, [*payloads], [0] * turn.jobs)
        turn.done()
    turn.check("written", await count(turn, "SELECT count(*) FROM pgqueuer"), turn.jobs)


if __name__ == "__main__":
    kinds = {"drain": drain, **kinds_of(latency, application), "enqueue_one": enqueue_one, "enqueue_many": enqueue_many}
    play(kinds, "pgqueuer", "asyncpg", "uvloop")
