"""Procrastinate, https://pypi.org/project/procrastinate: its asynchronous connector and worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import procrastinate
import psycopg

from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import Enqueue, Lone
from benchmarks.turn import Turn, play, queue_names

executed: list[int] = []
lone = Lone()


@asynccontextmanager
async def app_of(turn: Turn) -> AsyncIterator[procrastinate.App]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=turn.url, min_size=2, max_size=20))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        yield app


async def count(turn: Turn, status: str) -> int:
    async with await psycopg.AsyncConnection.connect(turn.url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM procrastinate_jobs WHERE status = %s", [status])
        [found] = await cursor.fetchone() or [0]
        return int(found)


async def drain(turn: Turn) -> None:
    async with app_of(turn) as app:

        @app.task(name="nothing", queue="bench", pass_context=True)
        async def nothing(context: procrastinate.JobContext) -> None:
            executed.append(context.job.id or 0)

        for first in range(0, turn.jobs, 1000):
            await nothing.batch_defer_async(*({} for _ in range(min(1000, turn.jobs - first))))
        turn.ready()
        await app.run_worker_async(
            queues=["bench"], concurrency=turn.concurrency, wait=False, install_signal_handlers=False
        )
        turn.done()
    turn.once(executed)
    turn.check("completed", await completed(turn), turn.jobs)


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=turn.url, min_size=1, max_size=2))
    async with app.open_async(), await psycopg.AsyncConnection.connect(turn.url, autocommit=True) as connection:

        async def enqueue(asks: Callable[[], None]) -> None:
            async with connection.transaction():
                await app.configure_task("waited", queue="bench", connection=connection).defer_async()
                asks()

        yield enqueue


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=turn.url, min_size=2, max_size=20))
    async with app.open_async():

        @app.task(name="waited", queue="bench")
        async def waited() -> None:
            lone.arrived()

        running = asyncio.create_task(
            app.run_worker_async(queues=queue_names(turn.options), concurrency=10, install_signal_handlers=False)
        )
        await asyncio.sleep(0.5)
        yield
        await asyncio.sleep(0.5)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def prepare(turn: Turn) -> None:
    async with app_of(turn):
        return


async def completed(turn: Turn) -> int:
    return await count(turn, "succeeded")


async def enqueue_one(turn: Turn) -> None:
    async with app_of(turn) as app:

        @app.task(name="nothing", queue="bench")
        async def nothing(user_id: int) -> None: ...

        turn.ready()
        for number in range(turn.jobs):
            await nothing.defer_async(user_id=number)
        turn.done()
    turn.check("written", await count(turn, "todo"), turn.jobs)


async def enqueue_many(turn: Turn) -> None:
    async with app_of(turn) as app:

        @app.task(name="nothing", queue="bench")
        async def nothing(user_id: int) -> None: ...

        turn.ready()
        await nothing.batch_defer_async(*({"user_id": number} for number in range(turn.jobs)))
        turn.done()
    turn.check("written", await count(turn, "todo"), turn.jobs)


if __name__ == "__main__":
    nodes = kinds_of_nodes(lone, application, node=node, completed=completed, prepare=prepare)
    kinds = {"drain": drain, **nodes, "enqueue_one": enqueue_one, "enqueue_many": enqueue_many}
    play(kinds, "procrastinate", "psycopg", "uvloop")
