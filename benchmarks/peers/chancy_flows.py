"""Chancy's workflows, https://tkte.ch/chancy: steps that are pushed once those are done on which they depend.

One process, as many jobs at once as all of ours have together. The plugin is told what it may be: it looks at all
workflows each second instead of twice a minute, which it does for those that were there when it started, and takes up
to ten thousand of them at once; its node leads from the first second on. Later steps come by its notifications. The
clock runs from the first job to the end of the last workflow, so that second is not counted. It writes all steps of a
workflow again whenever one is pushed, so forty thousand that wait for one are left out.
"""

# No `from __future__ import annotations`: what is to be injected into a job is known by annotations that are classes.

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise

import psycopg
from chancy import Chancy, Queue, QueuedJob, Worker, job
from chancy.app import setup_default_logger
from chancy.plugins.leadership import Leadership
from chancy.plugins.workflow import Workflow, WorkflowPlugin

from benchmarks.turn import Turn, play

executed: list[str] = []
moments: list[float] = []


@job(queue="bench")
async def nothing(*, context: QueuedJob) -> None:
    moments.append(time.perf_counter())
    executed.append(str(context.id))


@asynccontextmanager
async def chancy_of(turn: Turn) -> AsyncIterator[Chancy]:
    log = setup_default_logger(level=logging.WARNING)
    plugins = [
        Leadership(poll_interval=1, timeout=30),
        WorkflowPlugin(polling_interval=1, max_workflows_per_run=10_000),
    ]
    concurrency = turn.concurrency * turn.options.get("processes", 1) * turn.options.get("queues", 1)
    async with Chancy(turn.url, no_default_plugins=True, plugins=plugins, log=log) as chancy:
        await chancy.migrate()
        await chancy.declare(
            Queue("bench", concurrency=concurrency or 10, executor=Chancy.Executor.Async, eager_polling=True)
        )
        yield chancy


async def drain(turn: Turn, workflows: Iterator[Workflow], *, samples: bool = False) -> None:
    async with chancy_of(turn) as chancy:
        pushed = 0
        for workflow in workflows:
            await WorkflowPlugin.push(chancy, workflow)
            pushed += 1
        turn.ready()
        async with Worker(chancy, register_signal_handlers=False) as worker:
            async with asyncio.timeout(240):
                while await over(turn) < pushed:
                    await worker.flush()
                    await asyncio.sleep(0.02)
            ended = time.perf_counter()
            gaps = [(then - now) * 1000 for now, then in pairwise(moments)]
            turn.done(seconds=ended - moments[0], **({"samples": gaps} if samples else {}))
    turn.once(executed)  # type: ignore[arg-type]


async def over(turn: Turn) -> int:
    async with await psycopg.AsyncConnection.connect(turn.url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM chancy_workflows WHERE state = 'completed'")
        [found] = await cursor.fetchone() or [0]
        return int(found)


def pairs_of(turn: Turn) -> Iterator[Workflow]:
    return (Workflow("pair").add("a", nothing).add("b", nothing, ["a"]) for _ in range(turn.jobs // 2))


async def pairs(turn: Turn) -> None:
    await drain(turn, pairs_of(turn))


async def fan_in(turn: Turn) -> None:
    names = [f"{number}" for number in range(turn.jobs - 1)]
    workflow = Workflow("in").add_group([(name, nothing) for name in names]).add("one", nothing, names)
    await drain(turn, iter([workflow]))


async def chain(turn: Turn) -> None:
    workflow = Workflow("chain")
    for number in range(turn.jobs):
        workflow.add(f"{number}", nothing, [f"{number - 1}"] if number else [])
    await drain(turn, iter([workflow]), samples=True)


async def enqueue_pairs(turn: Turn) -> None:
    """A transaction for each workflow: `push` has it so."""
    async with chancy_of(turn) as chancy:
        turn.ready()
        for workflow in pairs_of(turn):
            await WorkflowPlugin.push(chancy, workflow)
        turn.done()
        async with await psycopg.AsyncConnection.connect(turn.url) as connection:
            cursor = await connection.execute("SELECT count(*) FROM chancy_workflow_steps")
            [found] = await cursor.fetchone() or [0]
    turn.check("steps that are written", found, turn.jobs)


if __name__ == "__main__":
    kinds = {"pairs": pairs, "fan_in": fan_in, "chain": chain, "enqueue_pairs": enqueue_pairs}
    play(kinds, "chancy", "psycopg", "uvloop")
