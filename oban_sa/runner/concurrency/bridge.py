"""The bridge from a thread to the loop: what synchronous code awaits there, with the thread waiting meanwhile.

`LoopCall` is one awaitable that crosses it. `bridged` has SQLAlchemy send all of a session's database work over it, to
the loop that the connections belong to: its asynchronous drivers hand every awaitable to the greenlet that they run in,
to the `parent.switch()` of the current one, where that says `__sqlalchemy_greenlet_provider__`. The parent of ours is
an object whose `switch` takes the awaitable to the loop and waits here, in the thread, for its result. No other module
knows of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from typing import Final, Generic, Protocol, TypeVar, cast

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped, unused-ignore]

from oban_sa.errors import AttemptCancelled

T = TypeVar("T")

LOOK_EVERY: Final = 1.0
"""Seconds after which a thread that waits looks whether there is still a loop."""

LOOP_CLOSED: Final = "the runner has stopped, and its loop with it"


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


class Wait(Protocol):
    """Awaits something on the loop, and returns or raises its result."""

    def __call__(self, awaitable: Awaitable[T], /) -> T: ...


def bridged(function: Callable[[], T], wait: Wait) -> T:
    """Run `function` in this thread; all that it awaits by SQLAlchemy's `await_only` is given to `wait`."""
    return cast("T", _Bridge(function, wait).switch())


class _Bridge(greenlet):  # type: ignore[misc]
    __sqlalchemy_greenlet_provider__ = True

    def __init__(self, function: Callable[[], object], wait: Wait) -> None:
        super().__init__(function)
        self._elsewhere = _Elsewhere(wait)
        # Else the code would see none of the context variables that its thread has.
        self.gr_context = getcurrent().gr_context

    # The greenlet that this one really returns to is kept elsewhere, and is not affected.
    @property
    def parent(self) -> _Elsewhere:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._elsewhere


class _Elsewhere:
    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        # It lacks the abstract methods that are never called.
        loop_class = cast("Callable[[Wait], asyncio.AbstractEventLoop]", _LoopElsewhere)
        self._loop = loop_class(wait)

    def switch(self, awaitable: Awaitable[T]) -> T:
        # Again and again, because the code may have called `asyncio.run`, which leaves none behind.
        asyncio.set_event_loop(self._loop)
        return self._wait(awaitable)


class _LoopElsewhere(asyncio.AbstractEventLoop):
    """What `asyncio.shield` looks for when a driver ends a broken connection: makes a task, and has it done at once."""

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    def get_debug(self) -> bool:
        return False

    def create_task(self, coro: Awaitable[T], **_: object) -> asyncio.Future[T]:  # type: ignore[override]
        return self._wait(_done(coro))


async def _done(coro: Awaitable[T]) -> asyncio.Future[T]:
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        done.set_result(await coro)
    except Exception as error:
        done.set_exception(error)
    return done
