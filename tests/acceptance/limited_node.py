"""A node that works on some queues until it is told to stop, and looks after itself and others every moment."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Queue, Runner

DEAD_AFTER = 2.0


async def work(url: str, node: str, queues: Mapping[str, Queue | int]) -> None:
    """Print "working" once it does, and return after SIGTERM."""
    engine = create_async_engine(url)
    runner = Runner(
        engine,
        queues=queues,
        node=node,
        heartbeat_every=0.3,
        dead_after=DEAD_AFTER,
        poll_every=0.5,
        stage_every=0.1,
        grace=0.2,
        prune=None,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, runner.stop)
    async with runner:
        print("working", flush=True)
        await runner.wait_stopped()
    await engine.dispose()
