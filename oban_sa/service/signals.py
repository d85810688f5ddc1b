"""What SIGTERM and SIGINT do to the runner's process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any, Final

from oban_sa.runner.concurrency import forks
from oban_sa.schedule import clock

logger = logging.getLogger("oban_sa.runner")

Stop = Callable[[], object]

REPEATED: Final = 1.0
"""Seconds within which another SIGTERM is the first one once more: a service's manager signals every process of it, and
a supervisor among them passes it on."""

LEFT_WITHIN: Final = 10.0
"""Seconds that the block has to end where there was nothing yet to stop."""


class Stopped(SystemExit):
    """SIGTERM came while there was nothing to stop yet; raised wherever the command is just then."""


@contextmanager
def listening() -> Generator[None]:
    """Let SIGTERM end the block with `Stopped`, which is exit code 0, as long as nothing else is said about it.

    Also where this is the first process of a container (PID 1), for which the system drops signals without a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # nothing may be said about signals here
        return
    global _came
    _came = False
    former = signal.signal(signal.SIGTERM, _end)
    forks.take(signal.SIGTERM, _end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is _end:
            signal.signal(signal.SIGTERM, former)
            forks.leave_alone(signal.SIGTERM)
        _came = False


def came() -> bool:
    """Whether SIGTERM has come by now, though code that was being imported may have kept it from ending the command."""
    return _came


def hear(number: int, callback: Callable[[int], object]) -> None:
    """Have a signal call this on the loop that runs here, and nothing in forks of this process."""
    loop = asyncio.get_running_loop()
    forks.take(number, None)
    try:
        loop.add_signal_handler(number, callback, number)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda number, _: void(loop.call_soon_threadsafe(callback, number)))


@asynccontextmanager
async def stoppable() -> AsyncGenerator[Callable[[Stop], None]]:
    """Let SIGTERM and SIGINT stop what runs in the block, and a second signal end the process at once.

    The block hands over its way to stop gracefully as soon as it has one; before that, a signal just leaves the block.
    """
    signals = _Signals(asyncio.current_task())
    for number in (signal.SIGTERM, signal.SIGINT):
        hear(number, signals.received)
    if came():
        signals.received(signal.SIGTERM)
    try:
        yield signals.stop_with
    except asyncio.CancelledError:
        if not signals.left or signals.task is None:
            raise
        signals.task.uncancel()
    finally:
        if signals.leaving is not None:
            signals.leaving.cancel()


class _Signals:
    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self.task = task
        self.left = False
        self._came_at: float | None = None
        self._stop: Stop | None = None
        self.leaving: asyncio.TimerHandle | None = None

    def stop_with(self, stop: Stop) -> None:
        self._stop = stop

    def received(self, number: int) -> None:
        if self._came_at is not None:
            if is_second(number, self._came_at):
                leave_at_once()
            return
        self._came_at = clock.monotonic()
        logger.info("%s received", signal.Signals(number).name)
        if self._stop is not None:
            self._stop()
        elif self.task is not None:
            self.left = True
            self.task.cancel()
            # What is cancelled may wait for a database that is silent.
            self.leaving = asyncio.get_running_loop().call_later(LEFT_WITHIN, leave_at_once)


def is_second(number: int, first_at: float) -> bool:
    """Whether this signal asks to end at once; the first signal came at `first_at`."""
    return number == signal.SIGINT or clock.monotonic() - first_at > REPEATED


_came = False


def _end(_number: int, _frame: FrameType | None) -> None:
    global _came
    _came = True
    raise Stopped(0)


def leave_at_once() -> None:
    """End the process without asking anyone: the jobs that run are rescued like those of a node that died."""
    logger.warning("leaving at once; another node rescues the jobs that were running")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


def void(_: object) -> None:
    """Drop what a call returns, for callers that must return None."""
