"""An awaitable that a thread waits for while it is awaited on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable
from typing import Final, Generic, TypeVar

from oban_sa.errors import AttemptCancelled

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds after which a thread that waits looks whether there is still a loop."""


class LoopCall(Generic[T]):
    """One awaitable, awaited on a loop while a thread waits for it; `cancel` ends it early, with an error of choice.

    The thread always learns of its end: also where its task is cancelled before the first step, and where the loop is
    closed with the task under way, or before it has begun.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, awaitable: Awaitable[T]) -> None:
        self._loop = loop
        self._awaitable = awaitable
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._value: T
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
            raise AttemptCancelled(LOOP_CLOSED) from None

    def drop(self) -> None:
        """Never begin."""
        if asyncio.iscoroutine(self._awaitable):
            self._awaitable.close()

    def cancel(self, reason: BaseException | type[BaseException]) -> None:
        """Cancel it; `reason` is raised in the thread, also where it comes too late to end anything."""
        if self._reason is None:
            self._reason = reason
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing under way
                self._loop.call_soon_threadsafe(self._cancel)

    def wait(self) -> None:
        """Wait in the thread until it is over."""
        while not self._over:
            try:
                if not self._ended.acquire(timeout=LOOK_EVERY) and self._loop.is_closed():
                    break
            except BaseException as error:  # an interruption that was on its way before this began
                self.cancel(error)

    def result(self) -> T:
        """Return or raise its result, once it is over."""
        error = self._error
        if not self._over:
            if self._task is None:
                self.drop()
            error = AttemptCancelled(LOOP_CLOSED)
        reason = self._reason
        try:
            if reason is not None:
                raise reason from error
            if error is not None:
                raise error
            return self._value
        finally:
            self._error = self._reason = error = reason = None  # a traceback refers to this frame

    def _begin(self) -> None:
        # The context is that of the thread: `call_soon_threadsafe` has taken it along.
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(self._done)
        if self._reason is not None:  # it came before there was a task to cancel
            self._task.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        self._begun = True
        try:
            self._value = await self._awaitable
        except BaseException as error:
            self._error = error

    def _done(self, _: object) -> None:
        # Not at the end of `_run`: of a task that is cancelled before its first step no line is ever executed.
        if not self._begun:
            self.drop()
            self._error = asyncio.CancelledError()
        self._over = True
        self._ended.release()


LOOP_CLOSED: Final = "the runner has stopped, and its loop with it"
