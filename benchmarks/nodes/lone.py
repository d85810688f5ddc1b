"""Lone jobs on an idle queue, one after another: from asking for the commit to the first line of the job's code.

The application that enqueues them is a process of its own, as a web server is, or, with the option `inside`, the very
process that the runner is in. Both tell the time by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

from benchmarks.nodes.another import another
from benchmarks.turn import Turn, say

WARM = 100
"""Jobs before any is counted: they open connections, and fill a table too small for its plans to be kept."""

Enqueue: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]
"""Writes a job in a transaction; calls what it is given right before it asks for the commit."""

Application: TypeAlias = Callable[[Turn], AbstractAsyncContextManager[Enqueue]]
Kind: TypeAlias = Callable[[Turn], Coroutine[Any, Any, None]]


class Lone:
    """The job that is waited for, and how long each took, in milliseconds."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.told: Callable[[float], None] | None = None
        """Is told when a job begins."""

    def arrived(self) -> None:
        """To be called by the job, first of all."""
        moment = time.perf_counter()
        assert self.told is not None, "a job ran that was never enqueued"
        self.told(moment)

    async def measure(self, turn: Turn, application: Application) -> None:
        """Have this turn's jobs enqueued by an application, and wait for each."""
        way = _inside(turn, application) if turn.options.get("inside") else apart(turn)
        arrivals: list[float] = []
        async with way as (enqueue, asked):
            for _ in range(turn.jobs + WARM):
                begun: asyncio.Future[float] = asyncio.get_running_loop().create_future()
                self.told = begun.set_result
                await enqueue()
                arrivals.append(await asyncio.wait_for(begun, 60))
                await asyncio.sleep(random.uniform(0.002, 0.02))
            moments = await asked()
        self.samples += [(came - went) * 1000 for went, came in zip(moments, arrivals, strict=True)][WARM:]


_Way: TypeAlias = tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[list[float]]]]
"""What has a job enqueued, and what ends the application and tells when it asked for each commit."""


@asynccontextmanager
async def _inside(turn: Turn, application: Application) -> AsyncIterator[_Way]:
    moments: list[float] = []

    async def asked() -> list[float]:
        return moments

    async with application(turn) as write:
        yield lambda: write(lambda: moments.append(time.perf_counter())), asked


@asynccontextmanager
async def apart(turn: Turn) -> AsyncIterator[_Way]:
    """The application in a process of its own."""
    async with another(turn, "application") as process:

        async def enqueue() -> None:
            process.stdin.write(b"another\n")
            await process.stdin.drain()

        async def asked() -> list[float]:
            process.stdin.write_eof()
            moments: list[float] = await process.answer("asked")
            turn.check("the exit code of the application", await process.ended(), 0)
            return moments

        await process.answer("ready")
        yield enqueue, asked


def kinds_of(latency: Kind, application: Application) -> dict[str, Kind]:
    """The kinds of turns that measure a pickup: one runs the jobs, and one is the application that enqueues them."""

    async def apart(turn: Turn) -> None:
        await _write(turn, application)

    return {"latency": latency, "application": apart}


async def _write(turn: Turn, application: Application) -> None:
    """Be the application in a process of its own: enqueue a job for each line that comes."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    moments: list[float] = []
    async with application(turn) as enqueue:
        say({"ready": []})
        while await lines.readline():
            await enqueue(lambda: moments.append(time.perf_counter()))
        say({"asked": moments})
