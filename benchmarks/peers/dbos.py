"""DBOS, https://pypi.org/project/dbos: workflows that are code, whose steps are checkpoints; asynchronous, few logs.

A workflow of two jobs is a workflow of two steps here, and a chain is one of as many: the code goes from one to the
next by itself, and nothing is fetched between. A job that waits for many is a workflow that enqueues one for each, and
waits for all of them; forty thousand jobs that wait for one have no like. Workflows wait in a queue that looks each
10 ms instead of each second, for as many at once as all of ours have together. The queue may run none until the clock
runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from dbos import DBOS, Queue

from benchmarks.turn import Turn, play

QUEUE = "bench"
EVERY = 0.01
"""Seconds between the looks of the queue."""
moments: list[float] = []
ended: list[float] = []
steps_run: list[int] = []
woken: dict[int, asyncio.Future[float]] = {}


@DBOS.step()
async def nothing(number: int) -> int:
    moments.append(time.perf_counter())
    steps_run.append(number)
    return number


@DBOS.workflow()
async def stepping(number: int, count: int) -> None:
    for each in range(count):
        await nothing(number * count + each)
    ended.append(time.perf_counter())


@DBOS.workflow()
async def child(number: int) -> int:
    moments.append(time.perf_counter())
    steps_run.append(number)
    return number


@DBOS.workflow()
async def parent(count: int) -> None:
    handles = [await DBOS.enqueue_workflow_async(QUEUE, child, number) for number in range(count)]
    for handle in handles:
        await handle.get_result()
    steps_run.append(count)
    ended.append(time.perf_counter())


@DBOS.workflow()
async def waiting(number: int) -> None:
    await DBOS.recv_async("go", timeout_seconds=600)
    woken[number].set_result(time.perf_counter())


@asynccontextmanager
async def dbos_of(turn: Turn) -> AsyncIterator[Queue]:
    """DBOS as it runs, and its queue, of which nothing is run yet."""
    DBOS(config={"name": "bench", "system_database_url": turn.url, "log_level": "ERROR"})
    DBOS.launch()
    yield await DBOS.register_queue_async(QUEUE, worker_concurrency=0, polling_interval_sec=EVERY)
    DBOS.destroy()


def at_once(turn: Turn) -> int:
    return turn.concurrency * turn.options.get("processes", 1) * turn.options.get("queues", 1)


async def enqueued(count: int, steps: int) -> None:
    for number in range(count):
        await DBOS.enqueue_workflow_async(QUEUE, stepping, number, steps)


async def drain(turn: Turn, workflows: int, steps: int) -> None:
    """From the first step to the end of the last workflow."""
    async with dbos_of(turn) as queue:
        await enqueued(workflows, steps)
        await asyncio.sleep(1.5)  # until the queue has a thread that looks
        turn.check("steps before the clock runs", len(steps_run), 0)
        turn.ready()
        await queue.set_worker_concurrency_async(at_once(turn))
        await until_ended(workflows)
        await until_written(workflows)
        turn.done(jobs=workflows * steps, seconds=time.perf_counter() - moments[0])
        turn.check("steps", sorted(steps_run), list(range(workflows * steps)))


async def until_ended(count: int) -> None:
    async with asyncio.timeout(240):
        while len(ended) < count:  # noqa: ASYNC110 - nothing is measured by it
            await asyncio.sleep(0.01)


async def until_written(count: int) -> None:
    """Until all workflows are over by the tables."""
    async with asyncio.timeout(60):
        while True:
            over = await DBOS.list_workflows_async(status="SUCCESS", limit=count, load_input=False)
            if len(over) >= count:
                return
            await asyncio.sleep(0.02)


async def pairs(turn: Turn) -> None:
    await drain(turn, turn.jobs // 2, 2)


async def steps(turn: Turn) -> None:
    await drain(turn, turn.jobs, turn.options["steps"])


async def fan_in(turn: Turn) -> None:
    async with dbos_of(turn) as queue:
        await queue.set_worker_concurrency_async(at_once(turn))
        await asyncio.sleep(1.5)
        turn.ready()
        await DBOS.start_workflow_async(parent, turn.jobs - 1)
        await until_ended(1)
        turn.done()
        turn.check("workflows", sorted(steps_run), list(range(turn.jobs)))


async def chain(turn: Turn) -> None:
    async with dbos_of(turn):
        turn.ready()
        await (await DBOS.start_workflow_async(stepping, 0, turn.jobs)).get_result()
        turn.done(samples=[(then - now) * 1000 for now, then in pairwise(moments)])
        turn.check("steps", steps_run, list(range(turn.jobs)))


async def signals(turn: Turn) -> None:
    """Messages to workflows that wait; from the call that sends one, in a transaction of its own, to the code."""
    samples = []
    async with dbos_of(turn):
        handles = [await DBOS.start_workflow_async(waiting, number) for number in range(turn.jobs)]
        await asyncio.sleep(1)
        turn.ready()
        for number, handle in enumerate(handles):
            woken[number] = asyncio.get_running_loop().create_future()
            asked = time.perf_counter()
            await DBOS.send_async(handle.workflow_id, {"ok": True}, "go")
            samples.append((await asyncio.wait_for(woken[number], 60) - asked) * 1000)
        turn.done(samples=samples)


async def enqueue_pairs(turn: Turn) -> None:
    """A transaction for each workflow: `enqueue_workflow_async` has it so."""
    async with dbos_of(turn):
        turn.ready()
        await enqueued(turn.jobs // 2, 2)
        turn.done()
        written: list[Any] = await DBOS.list_workflows_async(status="ENQUEUED", limit=turn.jobs, load_input=False)
        turn.check("workflows that are written", len(written), turn.jobs // 2)


if __name__ == "__main__":
    kinds = {
        "pairs": pairs,
        "steps": steps,
        "fan_in": fan_in,
        "chain": chain,
        "signals": signals,
        "enqueue_pairs": enqueue_pairs,
    }
    play(kinds, "dbos", "sqlalchemy", "psycopg", "uvloop")
