"""The floor's turns: the driver on our tables, and nothing in between."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from benchmarks import filling, floor
from benchmarks.command.startup import first_job
from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import Enqueue, Lone
from benchmarks.shares import Progress, Share, drained
from benchmarks.turn import Turn, play, queue_names
from benchmarks.writing import writer

lone = Lone()


async def drain(turn: Turn) -> None:
    await filling.fill(turn)
    await drained(turn, _work)
    await filling.check(turn)


async def _work(options: dict[str, Any], progress: Progress, go: Callable[[], Coroutine[Any, Any, None]]) -> Share:
    share = Share()
    queues = queue_names(options)
    connections = [await asyncpg.connect(options["url"]) for _ in queues]
    await go()
    share.began(time.perf_counter())

    async def one(connection: asyncpg.Connection, queue: str) -> None:
        fetch = floor.FETCH.replace("'bench'", f"'{queue}'")
        while rows := await connection.fetch(fetch, options["concurrency"], ["floor", "0"]):
            share.executed += (ids := [row["id"] for row in rows])
            await connection.execute(floor.ACK, ids)
            share.ended()

    await asyncio.gather(*(one(connection, queue) for connection, queue in zip(connections, queues, strict=True)))
    share.over()
    for connection in connections:
        await connection.close()
    return share


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    connection = await asyncpg.connect(turn.url)

    async def enqueue(asks: Callable[[], None]) -> None:
        async with connection.transaction():
            await connection.fetchval(floor.ONE, "benchmarks.lone", "{}")
            await connection.execute("SELECT pg_notify('floor', '')")
            asks()

    yield enqueue
    await connection.close()


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    """Fetch whenever a job is announced, as each node does that hears of it."""
    fetching, listening = [await asyncpg.connect(turn.url) for _ in range(2)]
    listener = floor.Listener(fetching, listening, arrived=lone.arrived)
    await listener.start()
    yield
    await listener.stop()
    for connection in (fetching, listening):
        await connection.close()


async def latency(turn: Turn) -> None:
    """A lone job, from asking for its commit until it is fetched by the process that listens."""
    turn.ready()
    async with node(turn):
        await lone.measure(turn, application)
    turn.done(samples=lone.samples)


async def loaded(turn: Turn) -> None:
    """Jobs that arrive all the time, from asking for their commit until they are fetched."""
    turn.ready()
    fetching, listening = [await asyncpg.connect(turn.url) for _ in range(2)]
    woken = asyncio.Event()
    await listening.add_listener("public.oban_insert", lambda *_: woken.set())
    samples: list[float] = []
    async with writer(turn):
        while len(samples) < turn.jobs:
            await asyncio.wait_for(woken.wait(), 30)
            woken.clear()
            while rows := await fetching.fetch(floor.FETCH, turn.concurrency, ["floor", "0"]):
                now = time.perf_counter()
                samples += [(now - json.loads(row["args"])["at"]) * 1000 for row in rows]
                await fetching.execute(floor.ACK, [row["id"] for row in rows])
    turn.done(samples=samples)
    for connection in (fetching, listening):
        await connection.close()
    await filling.check(turn)


async def enqueue_one(turn: Turn) -> None:
    """A prepared INSERT in a transaction of its own for each."""
    connection = await asyncpg.connect(turn.url)
    await connection.prepare(floor.ONE)
    turn.ready()
    for number in range(turn.jobs):
        await floor.insert_one(connection, "benchmarks.send", f'{{"user_id":{number}}}')
    turn.done()
    await connection.close()
    await filling.check_written(turn)


async def enqueue_flush(turn: Turn) -> None:
    """One INSERT of arrays for each batch, in a transaction of its own."""
    size = turn.options["batch"]
    connection = await asyncpg.connect(turn.url)
    turn.ready()
    for first in range(0, turn.jobs, size):
        args = [f'{{"user_id":{number}}}' for number in range(first, min(first + size, turn.jobs))]
        await connection.execute(floor.MANY, "benchmarks.send", args)
    turn.done()
    await connection.close()
    await filling.check_written(turn)


async def enqueue_copy(turn: Turn) -> None:
    """Binary COPY of the same rows with the same columns."""
    from oban_sa.bulk.binary import COLUMNS

    now = datetime.now(UTC).replace(tzinfo=None)
    same: dict[str, Any] = {
        "worker": "benchmarks.send",
        "queue": "bench",
        "state": "available",
        "meta": "{}",
        "tags": [],
        "max_attempts": 20,
        "priority": 0,
        "scheduled_at": now,
        "inserted_at": now,
    }
    columns = list(COLUMNS)
    place = columns.index("args")
    row = [None if name == "args" else same[name] for name in columns]
    before, after = tuple(row[:place]), tuple(row[place + 1 :])
    connection = await asyncpg.connect(turn.url)
    turn.ready()
    records = [(*before, f'{{"user_id":{number}}}', *after) for number in range(turn.jobs)]
    await connection.copy_records_to_table("oban_jobs", columns=columns, records=records)
    turn.done()
    await connection.close()
    await filling.check_written(turn)


async def startup(turn: Turn) -> None:
    """A Python process that connects and fetches the job that waits, with nothing else."""
    await first_job(turn, [sys.executable, "-m", "benchmarks.command.startup", turn.url])


KINDS = {
    "drain": drain,
    **kinds_of_nodes(lone, application, node=node, completed=filling.completed, latency=latency),
    "loaded": loaded,
    "enqueue_one": enqueue_one,
    "enqueue_flush": enqueue_flush,
    "enqueue_copy": enqueue_copy,
    "startup": startup,
}

if __name__ == "__main__":
    play(KINDS, "asyncpg", "uvloop")
