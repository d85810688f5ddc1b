"""oban for Python, https://pypi.org/project/oban: queues of one instance on a pool of psycopg's connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import oban
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import Enqueue, Lone
from benchmarks.turn import Turn, play, queue_names

executed: list[int] = []
ran = asyncio.Event()
lone = Lone()
wanted = 0


@oban.worker(queue="bench")
class Nothing:
    async def process(self, job: Any) -> None:
        executed.append(job.id)
        if len(executed) >= wanted:
            ran.set()


@oban.worker(queue="bench")
class Waited:
    async def process(self, job: Any) -> None:
        lone.arrived()


@asynccontextmanager
async def pool_of(turn: Turn) -> AsyncIterator[AsyncConnectionPool]:
    async with AsyncConnectionPool(turn.url, min_size=2, max_size=20) as pool:
        await install(pool)
        yield pool


async def count(pool: AsyncConnectionPool, condition: str) -> int:
    async with pool.connection() as connection:
        cursor = await connection.execute(f"SELECT count(*) FROM oban_jobs WHERE {condition}")
        [found] = await cursor.fetchone() or [0]
        return int(found)


async def drain(turn: Turn) -> None:
    global wanted
    wanted = turn.jobs
    async with pool_of(turn) as pool:
        client = oban.Oban(pool=pool, name="client")
        for first in range(0, turn.jobs, 1000):
            await client.enqueue_many(Nothing.new({}) for _ in range(min(1000, turn.jobs - first)))
        turn.ready()
        async with oban.Oban(pool=pool, queues={"bench": turn.concurrency}):
            await ran.wait()
            while await count(pool, "state in ('available', 'executing')"):  # noqa: ASYNC110 - only the table knows
                await asyncio.sleep(0.005)
            turn.done()
        turn.once(executed)
        turn.check("completed", await count(pool, "state = 'completed' AND attempt = 1"), turn.jobs)


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    async with (
        AsyncConnectionPool(turn.url, min_size=1, max_size=2) as pool,
        oban.Oban(pool=pool, name="client") as client,
        pool.connection() as connection,
    ):

        async def enqueue(asks: Callable[[], None]) -> None:
            async with connection.transaction():
                await client.enqueue(Waited.new({}), conn=connection)
                asks()

        yield enqueue


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    queues = dict.fromkeys(queue_names(turn.options), 10)
    name = f"bench.{turn.options.get('number', 0)}"
    async with (
        AsyncConnectionPool(turn.url, min_size=2, max_size=20) as pool,
        oban.Oban(pool=pool, queues=queues, node=name),
    ):
        yield


async def prepare(turn: Turn) -> None:
    async with pool_of(turn):
        return


async def completed(turn: Turn) -> int:
    async with AsyncConnectionPool(turn.url, min_size=1, max_size=1) as pool:
        return await count(pool, "state = 'completed' AND attempt = 1")


async def enqueue_one(turn: Turn) -> None:
    async with pool_of(turn) as pool:
        client = oban.Oban(pool=pool, name="client")
        turn.ready()
        for number in range(turn.jobs):
            await client.enqueue(Nothing.new({"user_id": number}))
        turn.done()
        turn.check("written", await count(pool, "state = 'available'"), turn.jobs)


async def enqueue_many(turn: Turn) -> None:
    async with pool_of(turn) as pool:
        client = oban.Oban(pool=pool, name="client")
        turn.ready()
        await client.enqueue_many(Nothing.new({"user_id": number}) for number in range(turn.jobs))
        turn.done()
        turn.check("written", await count(pool, "state = 'available'"), turn.jobs)


if __name__ == "__main__":
    nodes = kinds_of_nodes(lone, application, node=node, completed=completed, prepare=prepare)
    kinds = {"drain": drain, **nodes, "enqueue_one": enqueue_one, "enqueue_many": enqueue_many}
    play(kinds, "oban", "psycopg", "uvloop")
