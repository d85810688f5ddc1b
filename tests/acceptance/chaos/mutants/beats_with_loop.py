"""The heart beats on the event loop, which code that blocks it stops."""

from __future__ import annotations

import asyncio
from typing import Any

from oban_sa.runner.cluster.heartbeat import Heartbeat

PROMISES = ("P5",)
KIND = "mixed"


async def _start(self: Any) -> None:
    database = self._database()
    line = database.line()
    from oban_sa.runner.cluster import heartbeat

    beat, register = database.prepare(heartbeat.beat), database.prepare(heartbeat.register)
    self._loop = asyncio.get_running_loop()

    async def beats() -> None:
        while not self._stop.is_set():
            await asyncio.sleep(self._every)
            try:
                await self._once(line, beat, register)
            except Exception:
                continue
        await line.close()

    self._task = asyncio.create_task(beats())


async def _stop(self: Any) -> None:
    self._stop.set()
    self._task.cancel()
    await asyncio.gather(self._task, return_exceptions=True)


Heartbeat.start = _start  # type: ignore[method-assign]
Heartbeat.stop = _stop  # type: ignore[method-assign]
