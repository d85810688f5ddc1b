"""Lone jobs on an idle queue, one after another: from asking for the commit to the first line of the job's code."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

WARM = 10
"""Jobs that open connections and make plans before any is counted."""


class Lone:
    """The job that is waited for, and how long each took."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._arrived: asyncio.Future[float] | None = None

    def arrived(self) -> None:
        """To be called by the job, first of all."""
        assert self._arrived is not None, "a job ran that nobody enqueued"
        self._arrived.set_result(time.perf_counter())

    async def measure(self, jobs: int, enqueue: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Let `enqueue` write a job each time; it calls what it is given right before it asks for the commit."""
        for number in range(jobs + WARM):
            self._arrived = asyncio.get_running_loop().create_future()
            asked = 0.0

            def asks() -> None:
                nonlocal asked
                asked = time.perf_counter()

            await enqueue(asks)
            waited = (await asyncio.wait_for(self._arrived, 60) - asked) * 1000
            if number >= WARM:
                self.samples.append(waited)
            await asyncio.sleep(random.uniform(0.002, 0.02))
