"""A node with limits, whose clocks are wrong: `python -m tests.acceptance.limits_node URL NODE HOURS`."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Queue, Rate, job
from oban_sa.schedule import clock
from tests.acceptance.limited_node import work

GLOBAL = 12
"""Jobs of the queue "limited" that execute at once."""

RATE = Rate(40, per=1)
"""Of the queue "rated"."""

EACH = 3
"""Jobs of each key of the queue "keyed" that execute at once."""

KEYS = 5
"""Keys that jobs have."""

RATE_OF_EACH = Rate(12, per=1)
"""Of each key of that queue."""

QUEUES = {
    "limited": Queue(10, global_limit=GLOBAL),
    "rated": Queue(10, rate=RATE),
    "both": Queue(10, global_limit=5, rate=Rate(60, per=0.5, weight="args.points")),
    "keyed": Queue(10, by="partition", each=EACH, rate=RATE_OF_EACH),
}


@job
async def plain(points: int) -> None:
    await asyncio.sleep(random.random() * 0.05)


@job
async def in_a_session(session: AsyncSession, points: int) -> None:
    await session.execute(text("SELECT pg_sleep(0.01)"))


@job(max_attempts=3, backoff=lambda _: 0.05)
async def fails(points: int) -> None:
    await asyncio.sleep(0.01)
    raise ValueError("as it should")


@job
async def long(points: int) -> None:
    await asyncio.sleep(0.5)


def set_clocks(hours: float) -> None:
    def now() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    def monotonic() -> float:
        return time.monotonic() + hours * 3600

    clock.now = now
    clock.monotonic = monotonic  # type: ignore[misc]


if __name__ == "__main__":
    set_clocks(float(sys.argv[3]))
    asyncio.run(work(sys.argv[1], sys.argv[2], QUEUES))
