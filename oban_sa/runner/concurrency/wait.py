"""Waiting for a condition that has to be polled, and for tasks and threads that have to end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from oban_sa.schedule import clock

REST: Final = 0.02
LONGEST_REST: Final = 0.25
"""Seconds between two polls: at first, and the most they grow to."""


CANCELLED_WITHIN: Final = 2.0
"""Seconds that a task has to end once it was cancelled; one that waits for a silent database may never."""


async def cancelled(*tasks: asyncio.Future[Any], within: float = CANCELLED_WITHIN) -> None:
    """Cancel tasks and wait until they have ended, for so many seconds at most; what they raise is dropped."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_heard)
    if tasks:
        await asyncio.wait(tasks, timeout=within)


def _heard(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def joined(threads: Iterable[threading.Thread], within: float) -> None:
    """Wait until threads have ended, for so many seconds at most.

    In a thread made for that: those of the loop's own executor may all be taken by what jobs do with them.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wait() -> None:
        deadline = clock.monotonic() + within
        for thread in threads:
            thread.join(max(deadline - clock.monotonic(), 0))
        with contextlib.suppress(RuntimeError):  # the loop is closed, and no task waits any more
            loop.call_soon_threadsafe(ended.set)

    try:
        threading.Thread(target=wait, name="oban_sa joining", daemon=True).start()
    except RuntimeError:  # no more threads can be started; those here are daemons, and end without being waited for
        return
    await ended.wait()


async def until(is_so: Callable[[], Awaitable[bool]], *, stopped: asyncio.Event) -> None:
    """Poll ever less often until `is_so()` is true or `stopped` is set."""
    rest = REST
    while not stopped.is_set():
        if await is_so():
            return
        try:
            async with asyncio.timeout(rest):
                await stopped.wait()
        except TimeoutError:
            rest = min(rest * 1.5, LONGEST_REST)
