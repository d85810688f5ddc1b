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

from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import Enqueue, Lone
from benchmarks.turn import Turn, play, queue_names

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


async def drain(turn: Turn, *, at_once: int = 0) -> None:
    async with queries_of(turn) as queries:
        await queries.enqueue(["nothing"] * turn.jobs, [None] * turn.jobs, [0] * turn.jobs)
    connection = await asyncpg.connect(turn.url)
    pgq = PgQueuer(AsyncpgDriver(connection))

    @pgq.entrypoint("nothing", concurrency_limit=at_once)
    async def nothing(job: Job) -> None:
        executed.append(job.id)

    turn.ready()
    await pgq.run(batch_size=turn.concurrency, mode=QueueExecutionMode.drain)
    turn.done()
    await connection.close()
    turn.once(executed)
    turn.check("completed", await completed(turn), turn.jobs)


async def drain_limited(turn: Turn) -> None:
    """With as many of the entrypoint at once, of all nodes together."""
    await drain(turn, at_once=turn.options["limits"]["global_limit"])


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    connection = await asyncpg.connect(turn.url)
    queries = Queries(AsyncpgDriver(connection))

    async def enqueue(asks: Callable[[], None]) -> None:
        async with connection.transaction():
            await queries.enqueue("bench", None)
            asks()

    yield enqueue
    await connection.close()


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    """There are no queues here, but entrypoints."""
    connection = await asyncpg.connect(turn.url)
    pgq = PgQueuer(AsyncpgDriver(connection))

    async def waited(job: Job) -> None:
        lone.arrived()

    for name in queue_names(turn.options):
        pgq.entrypoint(name)(waited)
    running = asyncio.create_task(pgq.run(batch_size=10))
    await asyncio.sleep(0.5)
    yield
    await asyncio.sleep(0.5)
    pgq.shutdown.set()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(running, 35)
    await connection.close()


async def prepare(turn: Turn) -> None:
    async with queries_of(turn):
        return


async def completed(turn: Turn) -> int:
    return await count(turn, "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'")


async def enqueue_one(turn: Turn) -> None:
    async with queries_of(turn) as queries:
        turn.ready()
        for number in range(turn.jobs):
            await queries.enqueue("nothing", b'{"user_id":%d}' % number)
        turn.done()
    turn.check("written", await count(turn, "SELECT count(*) FROM pgqueuer"), turn.jobs)


async def enqueue_unique(turn: Turn) -> None:
    async with queries_of(turn) as queries:
        turn.ready()
        for number in range(turn.jobs):
            await queries.enqueue("nothing", b'{"user_id":%d}' % number, dedupe_key=f"user {number}")
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
    nodes = kinds_of_nodes(lone, application, node=node, completed=completed, prepare=prepare)
    drains = {"drain": drain, "drain_limited": drain_limited}
    enqueues = {"enqueue_one": enqueue_one, "enqueue_unique": enqueue_unique, "enqueue_many": enqueue_many}
    kinds = {**drains, **nodes, **enqueues}
    play(kinds, "pgqueuer", "asyncpg", "uvloop")
