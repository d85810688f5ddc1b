"""What a thread has done for it on the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable
from typing import Any

from oban_sa.errors import AttemptCancelled


class LoopCall:
    """One awaitable, done on a loop while a thread waits for it; `cancel` ends it early, with an error of choice."""

    def __init__(self, loop: asyncio.AbstractEventLoop, awaitable: Awaitable[Any]) -> None:
        self._loop = loop
        self._awaitable = awaitable
        self._task: asyncio.Task[None] | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._reason: BaseException | type[BaseException] | None = None
        self._over = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def go(self) -> None:
        """Begin; in the thread."""
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            self.drop()
            raise AttemptCancelled("the runner has stopped, and its loop with it") from None

    def drop(self) -> None:
        """Never begin."""
        if asyncio.iscoroutine(self._awaitable):
            self._awaitable.close()

    def cancel(self, reason: BaseException | type[BaseException]) -> None:
        """Cancel what is under way; the thread will be told `reason`."""
        if self._reason is None:
            self._reason = reason
            # Where the loop is closed, nothing is under way.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._cancel)

    def wait(self) -> None:
        """Wait in the thread until it is over."""
        while not self._over:
            try:
                self._ended.acquire()
            except BaseException as error:  # an interruption that was on its way before this began
                self.cancel(error)

    @property
    def missed(self) -> BaseException | type[BaseException] | None:
        """The reason for which it was cancelled, where it ended well all the same."""
        return self._reason if self._error is None else None

    def result(self) -> Any:
        """What came of it, once it is over."""
        error = self._error
        if error is None:
            return self._value
        reason = self._reason
        try:
            if isinstance(error, asyncio.CancelledError) and reason is not None:
                raise reason from error
            raise error
        finally:
            self._error = self._reason = error = reason = None  # a traceback refers to this frame

    def _begin(self) -> None:
        # The context is that of the thread: `call_soon_threadsafe` has taken it along.
        self._task = self._loop.create_task(self._run())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            self._value = await self._awaitable
        except BaseException as error:
            self._error = error
        finally:
            self._over = True
            self._ended.release()
