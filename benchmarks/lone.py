"""Lone jobs on an idle queue, one after another: from asking for the commit to the first line of the job's code.

The application that enqueues them is a process of its own, as a web server is, or, with the option `inside`, the very
process that the runner is in. Both tell the time by the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

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
        self._arrived: asyncio.Future[float] | None = None

    def arrived(self) -> None:
        """To be called by the job, first of all."""
        assert self._arrived is not None, "a job ran that nobody enqueued"
        self._arrived.set_result(time.perf_counter())

    async def measure(self, turn: Turn, application: Application) -> None:
        """Have this turn's jobs enqueued by an application, and wait for each."""
        place = _inside(turn, application) if turn.options.get("inside") else _apart(turn)
        arrivals: list[float] = []
        async with place as (enqueue, asked):
            for _ in range(turn.jobs + WARM):
                self._arrived = asyncio.get_running_loop().create_future()
                await enqueue()
                arrivals.append(await asyncio.wait_for(self._arrived, 60))
                await asyncio.sleep(random.uniform(0.002, 0.02))
            moments = await asked()
        self.samples += [(came - went) * 1000 for went, came in zip(moments, arrivals, strict=True)][WARM:]


_Place: TypeAlias = tuple[Callable[[], Awaitable[None]], Callable[[], Awaitable[list[float]]]]
"""What has a job enqueued, and what tells when each commit was asked for."""


@asynccontextmanager
async def _inside(turn: Turn, application: Application) -> AsyncIterator[_Place]:
    moments: list[float] = []

    async def asked() -> list[float]:
        return moments

    async with application(turn) as write:
        yield lambda: write(lambda: moments.append(time.perf_counter())), asked


@asynccontextmanager
async def _apart(turn: Turn) -> AsyncIterator[_Place]:
    module = sys.modules["__main__"].__spec__
    assert module is not None, "turns are taken by modules"
    words = ["-m", module.name, json.dumps({**turn.options, "kind": "application"})]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**24
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def answer(word: str) -> list[float]:
        while line := await asyncio.wait_for(stdout.readline(), 60):
            if line.startswith(b"{") and word in (said := json.loads(line)):
                found: list[float] = said[word]
                return found
        raise SystemExit("the application ended before its turn was over")

    async def enqueue() -> None:
        stdin.write(b"another\n")
        await stdin.drain()

    async def asked() -> list[float]:
        stdin.write_eof()
        return await answer("asked")

    try:
        await answer("ready")
        yield enqueue, asked
        turn.check("the exit code of the application", await asyncio.wait_for(process.wait(), 60), 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def kinds_of(latency: Kind, application: Application) -> dict[str, Kind]:
    """The kinds of turns that measure a pickup: whoever runs the jobs, and the application that enqueues them."""

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
