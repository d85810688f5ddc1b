"""Chancy, https://pypi.org/project/chancy: an asynchronous queue that polls eagerly, quiet logs, no plugins."""

# No `from __future__ import annotations`: what is to be injected into a job is known by annotations that are classes.

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psycopg
from chancy import Chancy, Job, Queue, QueuedJob, Worker, job
from chancy.app import setup_default_logger
from psycopg.rows import dict_row

from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import WARM, Enqueue, Lone
from benchmarks.turn import Turn, play, queue_names

executed: list[str] = []
ran = asyncio.Event()
lone = Lone()
wanted = 0


@job(queue="bench")
async def nothing(*, context: QueuedJob) -> None:
    executed.append(str(context.id))
    if len(executed) >= wanted:
        ran.set()


@job(queue="bench")
async def waited() -> None:
    lone.arrived()


@job(queue="bench")
async def send(user_id: int) -> None: ...


@asynccontextmanager
async def chancy_of(turn: Turn, *, plugins: bool = False) -> AsyncIterator[Chancy]:
    log = setup_default_logger(level=logging.WARNING)
    async with Chancy(turn.url, no_default_plugins=not plugins, log=log) as chancy:
        await chancy.migrate()
        concurrency = turn.concurrency or 10
        for name in queue_names(turn.options):
            await chancy.declare(
                Queue(name, concurrency=concurrency, executor=Chancy.Executor.Async, eager_polling=True)
            )
        yield chancy


async def count(turn: Turn, state: str) -> int:
    async with await psycopg.AsyncConnection.connect(turn.url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM chancy_jobs WHERE state = %s", [state])
        [found] = await cursor.fetchone() or [0]
        return int(found)


async def push(chancy: Chancy, jobs: list[Job]) -> None:
    async for _ in chancy.push_many(jobs):
        pass


async def drain(turn: Turn) -> None:
    global wanted
    wanted = turn.jobs
    async with chancy_of(turn) as chancy:
        await push(chancy, [nothing.job for _ in range(turn.jobs)])
        turn.ready()
        async with Worker(chancy, register_signal_handlers=False) as worker:
            await ran.wait()
            while await count(turn, "succeeded") < turn.jobs:
                await worker.flush()
                await asyncio.sleep(0)
            turn.done()
    turn.check("jobs that ran", len(set(executed)), turn.jobs)
    turn.check("executions", len(executed), turn.jobs)
    turn.check("completed", await completed(turn), turn.jobs)


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    log = setup_default_logger(level=logging.WARNING)
    connecting = psycopg.AsyncConnection.connect(turn.url, autocommit=True, row_factory=dict_row)
    async with Chancy(turn.url, no_default_plugins=True, log=log) as chancy, await connecting as connection:

        async def enqueue(asks: Callable[[], None]) -> None:
            async with connection.transaction(), connection.cursor() as cursor:
                await chancy.push_ex(cursor, waited.job)
                asks()

        yield enqueue


async def latency(turn: Turn) -> None:
    async with chancy_of(turn) as chancy:
        turn.ready()
        async with Worker(chancy, register_signal_handlers=False) as worker:
            await asyncio.sleep(1)
            await lone.measure(turn, application)
            turn.done(samples=lone.samples)
            await asyncio.sleep(0.2)
            await worker.flush()
    turn.check("completed", await completed(turn), turn.jobs + WARM)


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    """With the plugins that are there by default, since some of them do what others do without one."""
    log = setup_default_logger(level=logging.WARNING)
    async with Chancy(turn.url, log=log) as chancy, Worker(chancy, register_signal_handlers=False):
        yield


async def prepare(turn: Turn) -> None:
    async with chancy_of(turn, plugins=True):
        return


async def completed(turn: Turn) -> int:
    return await count(turn, "succeeded")


async def enqueue_one(turn: Turn) -> None:
    async with chancy_of(turn) as chancy:
        turn.ready()
        for number in range(turn.jobs):
            await chancy.push(send.job.with_kwargs(user_id=number))
        turn.done()
    turn.check("written", await count(turn, "pending"), turn.jobs)


async def enqueue_unique(turn: Turn) -> None:
    async with chancy_of(turn) as chancy:
        turn.ready()
        for number in range(turn.jobs):
            await chancy.push(send.job.with_kwargs(user_id=number).with_unique_key(f"user {number}"))
        turn.done()
    turn.check("written", await count(turn, "pending"), turn.jobs)


async def enqueue_many(turn: Turn) -> None:
    async with chancy_of(turn) as chancy:
        turn.ready()
        await push(chancy, [send.job.with_kwargs(user_id=number) for number in range(turn.jobs)])
        turn.done()
    turn.check("written", await count(turn, "pending"), turn.jobs)


if __name__ == "__main__":
    nodes = kinds_of_nodes(lone, application, node=node, completed=completed, prepare=prepare, latency=latency)
    enqueues = {"enqueue_one": enqueue_one, "enqueue_unique": enqueue_unique, "enqueue_many": enqueue_many}
    kinds = {"drain": drain, **nodes, **enqueues}
    play(kinds, "chancy", "psycopg", "uvloop")
