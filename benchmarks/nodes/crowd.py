"""One node or many on one database, each a process: with nothing to do, or with lone jobs that arrive at a steady pace.

Nodes run until they have been looked at, then they are killed: how they stop is no part of the figure. The pickup of a
job runs from asking for its commit to the first line of its code. All processes of a machine share the clock, and the
job that was asked for first is taken for the one that began first.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from benchmarks.nodes.another import Another, another
from benchmarks.nodes.lone import WARM, Application, Kind, Lone, apart, kinds_of
from benchmarks.turn import Turn, say, until

SETTLE = 2.0
"""Seconds that nodes get after they have started, until one leads and all have looked at the database."""
AFTER = 0.3
"""Seconds after the last job has begun, in which its outcome is written."""
COMPLETE = 20.0
"""Seconds in which all outcomes have to be in the tables."""

Node: TypeAlias = Callable[[Turn], AbstractAsyncContextManager[None]]
"""Works on the turn's queues inside of the block; the database is prepared."""
Prepare: TypeAlias = Callable[[Turn], Awaitable[None]]
"""Makes the contender's tables, where that is not done already."""
Completed: TypeAlias = Callable[[Turn], Awaitable[int]]
"""Counts the jobs that are completed by the tables."""


def kinds_of_nodes(
    lone: Lone,
    application: Application,
    *,
    node: Node,
    completed: Completed,
    prepare: Prepare | None = None,
    latency: Kind | None = None,
) -> dict[str, Kind]:
    """All kinds of turns about lone jobs and about nodes; `latency` where a node alone is no `node` of many."""

    async def latency_of_node(turn: Turn) -> None:
        if prepare is not None:
            await prepare(turn)
        turn.ready()
        async with node(turn):
            await lone.measure(turn, application)
            turn.done(samples=lone.samples)
        turn.check("completed", await completed(turn), turn.jobs + WARM)

    async def be_node(turn: Turn) -> None:
        await _be_node(turn, lone, node)

    async def rest(turn: Turn) -> None:
        if prepare is not None:
            await prepare(turn)
        await _rest(turn)

    async def crowd(turn: Turn) -> None:
        if prepare is not None:
            await prepare(turn)
        await _crowd(turn, completed)

    return {**kinds_of(latency or latency_of_node, application), "node": be_node, "rest": rest, "crowd": crowd}


async def _be_node(turn: Turn, lone: Lone, node: Node) -> None:
    """Be a node until standard input ends."""
    lone.told = lambda moment: say({"arrived": moment})
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with node(turn):
        say({"running": True})
        await lines.read()


@asynccontextmanager
async def _nodes(turn: Turn) -> AsyncIterator[list[Another]]:
    """As many nodes as the options say, all at work and settled."""
    async with AsyncExitStack() as stack:
        count = turn.options["nodes"]
        nodes = [await stack.enter_async_context(another(turn, "node", number=number)) for number in range(count)]
        await asyncio.gather(*(each.answer("running", within=120) for each in nodes))
        await asyncio.sleep(SETTLE)
        yield nodes


async def _rest(turn: Turn) -> None:
    """Let nodes have nothing to do for so long."""
    async with _nodes(turn) as nodes:
        turn.ready(nodes=[each.pid for each in nodes])
        await asyncio.sleep(turn.options["over"])
        turn.done(jobs=1)
        turn.measured()


async def _crowd(turn: Turn, completed: Completed) -> None:
    """Have jobs enqueued at a steady pace while the nodes wait for them."""
    warm: int = turn.options["warm"]
    arrivals: list[float] = []

    async def hear(node: Another) -> None:
        while True:
            arrivals.append(await node.answer("arrived", within=600))

    async with _nodes(turn) as nodes, apart(turn) as (enqueue, asked):
        hearing = [asyncio.create_task(hear(each)) for each in nodes]
        await _paced(enqueue, warm, every=turn.options["every"])
        await until(lambda: len(arrivals) >= warm, within=60)
        turn.ready(nodes=[each.pid for each in nodes])
        await _paced(enqueue, turn.jobs, every=turn.options["every"])
        await until(lambda: len(arrivals) >= warm + turn.jobs, within=60)
        await asyncio.sleep(AFTER)
        moments = await asked()
        pairs = zip(moments, sorted(arrivals), strict=True)
        turn.done(samples=[(came - went) * 1000 for went, came in pairs][warm:])
        turn.measured()
        await _all_completed(turn, completed, warm + turn.jobs)
        turn.check("jobs that began", len(arrivals), warm + turn.jobs)
        for each in hearing:
            each.cancel()
        await asyncio.gather(*hearing, return_exceptions=True)


async def _paced(enqueue: Callable[[], Awaitable[None]], count: int, *, every: float) -> None:
    began = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number * every - time.perf_counter()))
        await enqueue()


async def _all_completed(turn: Turn, completed: Completed, wanted: int) -> None:
    # Only the tables know.
    deadline = time.perf_counter() + COMPLETE
    while (found := await completed(turn)) < wanted and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    turn.check("completed", found, wanted)
