"""What code reads while it runs: awaited on the loop, and in a thread waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TypeVar

from oban_sa.workers.loop import has_loop

T = TypeVar("T")


class Reading(Awaitable[T]):
    """Something that is awaited on the loop, and in a thread done at once."""

    def __init__(self, work: Callable[[], Coroutine[object, None, T]], loop: asyncio.AbstractEventLoop | None) -> None:
        self._work = work
        self._done: list[T] = []
        if loop is not None and not has_loop():
            self._done.append(waited(work(), loop))

    def __await__(self) -> Generator[object, None, T]:
        return self._done[0] if self._done else (yield from self._work().__await__())


def waited(work: Coroutine[object, None, T], loop: asyncio.AbstractEventLoop) -> T:
    """Wait in a thread for a coroutine that runs on the loop; raises what it raises."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    while True:
        try:
            # Again and again: an exception that interrupts this thread is raised between two waits.
            return future.result(timeout=0.5)
        except TimeoutError:
            if future.done():
                raise
        except BaseException:
            future.cancel()
            raise
