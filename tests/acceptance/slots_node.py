"""A program without a runner whose tasks hold slots: `python -m tests.acceptance.slots_node URL NAME LONG`.

It prints "working" once each of its tasks may begin, and "lost" for each slot that it has lost. With LONG 1 it takes
slots and keeps them.
"""

from __future__ import annotations

import asyncio
import random
import sys

from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Oban, Rate
from oban_sa.client import slot_keeper
from oban_sa.errors import LimitLost, LimitReached

LIMIT = 3
RATE = Rate(40, per=1)
HOLDS = 6.0
"""Seconds after which the slot of a process that died is free."""


async def work(url: str, seconds: float) -> None:
    engine = create_async_engine(url)
    oban = Oban(engine)

    async def hold() -> None:
        while True:
            try:
                async with oban.limit("held", limit=LIMIT, wait=5):
                    await asyncio.sleep(seconds or random.random() * 0.05)
            except LimitLost:
                print("lost", flush=True)
            except LimitReached:
                pass

    async def start() -> None:
        while True:
            async with oban.limit("rated", key="a", limit=10, rate=RATE):
                await asyncio.sleep(random.random() * 0.01)

    print("working", flush=True)
    await asyncio.gather(*(hold() for _ in range(4)), *(start() for _ in range(0 if seconds else 4)))


if __name__ == "__main__":
    slot_keeper.HOLDS, slot_keeper.KEEP_EVERY = HOLDS, HOLDS / 10  # type: ignore[misc]
    asyncio.run(work(sys.argv[1], 600.0 if sys.argv[2] == "long" else 0.0))
