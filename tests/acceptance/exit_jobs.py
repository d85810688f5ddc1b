"""Workers whose code ends other programs: in tasks and callbacks of its own, out of the reach of whoever runs it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import job


async def exits(how: str) -> None:
    await asyncio.sleep(0)
    if how == "exit":
        sys.exit(3)
    raise KeyboardInterrupt


async def gathered(how: str) -> None:
    await asyncio.gather(asyncio.sleep(0.01), exits(how))


async def waited_for(how: str) -> None:
    await asyncio.wait_for(exits(how), 30)


async def grouped(how: str) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(30))
        group.create_task(exits(how))


async def awaited(how: str) -> None:
    await asyncio.create_task(exits(how))


async def shielded(how: str) -> None:
    await asyncio.shield(exits(how))


async def caught(how: str) -> None:
    try:
        await asyncio.gather(exits(how))
    except (SystemExit, KeyboardInterrupt):
        return
    raise AssertionError


async def forgotten(how: str) -> None:
    task = asyncio.create_task(exits(how))
    await asyncio.wait([task])
    task.exception()


async def called_back(how: str) -> None:
    def call() -> None:
        called.set()
        raise SystemExit(3) if how == "exit" else KeyboardInterrupt

    called = asyncio.Event()
    asyncio.get_running_loop().call_soon(call)
    await called.wait()


async def called_later(how: str) -> None:
    def call() -> None:
        called.set()
        raise SystemExit(3) if how == "exit" else KeyboardInterrupt

    called = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, call)
    await called.wait()


async def left_generator(how: str) -> None:
    """Closed by the loop, in a task of the loop's own, once nothing holds it."""

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                await exits(how)
            finally:
                closed.set()

    closed = asyncio.Event()
    generator = numbers()
    await anext(generator)
    del generator
    await closed.wait()


FAILING = {each.__name__: each for each in (gathered, waited_for, grouped, awaited, shielded)}
PASSING = {each.__name__: each for each in (caught, forgotten, called_back, called_later, left_generator)}
KINDS: dict[str, Any] = FAILING | PASSING


@job(max_attempts=1)
async def on_loop(kind: str, how: str) -> None:
    await KINDS[kind](how)


@job(max_attempts=1)
async def in_session(kind: str, how: str, session: AsyncSession) -> None:
    await KINDS[kind](how)


@job(max_attempts=1, executor="process")
async def in_process(kind: str, how: str) -> None:
    await KINDS[kind](how)


@job(max_attempts=1)
async def bystander(seconds: float) -> None:
    await asyncio.sleep(seconds)


@job(max_attempts=1)
def bystander_in_thread(seconds: float) -> None:
    time.sleep(seconds)
