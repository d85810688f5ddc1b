"""What SIGTERM and SIGINT do to the runner's process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger("oban_sa.runner")

Stop = Callable[[], object]


@asynccontextmanager
async def stoppable() -> AsyncGenerator[Callable[[Stop], None]]:
    """Let SIGTERM and SIGINT stop what runs in the block, and a SIGINT after either end the process at once.

    The block hands over its way to stop gracefully as soon as it has one; before that, a signal just leaves the block.
    """
    signals = _Signals(asyncio.current_task())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, signals.received, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, _: void(loop.call_soon_threadsafe(signals.received, number)))
    try:
        yield signals.stop_with
    except asyncio.CancelledError:
        if not signals.left or signals.task is None:
            raise
        signals.task.uncancel()


class _Signals:
    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.task = task
        self.left = False
        self._came = False
        self._stop: Stop | None = None

    def stop_with(self, stop: Stop) -> None:
        self._stop = stop

    def received(self, number: int) -> None:
        if self._came:
            if number == signal.SIGINT:
                leave_at_once()
            return
        self._came = True
        logger.info("%s received", signal.Signals(number).name)
        if self._stop is not None:
            self._stop()
        elif self.task is not None:
            self.left = True
            self.task.cancel()


def leave_at_once() -> None:
    """End the process without asking anyone: the jobs that run are rescued like those of a node that died."""
    logger.warning("interrupted again; leaving at once, another node rescues the jobs that were running")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


def void(_: object) -> None:
    """Drop what a call returns, for callers that must return None."""
