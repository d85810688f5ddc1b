"""Synchronous code in a thread, whose database work is done on the loop that the connections belong to.

SQLAlchemy's asynchronous drivers hand every awaitable to the greenlet that they run in: to the `parent.switch()` of the
current one, where that says `__sqlalchemy_greenlet_provider__`. The parent of ours is an object whose `switch` takes
the awaitable to the loop and waits here, in the thread, for its result. No other module knows of that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped, unused-ignore]

T = TypeVar("T")


class Wait(Protocol):
    """Awaits something on the loop, and returns or raises its result."""

    def __call__(self, awaitable: Awaitable[T], /) -> T: ...


def bridged(function: Callable[[], T], wait: Wait) -> T:
    """Run `function` in this thread; all that it awaits by SQLAlchemy's `await_only` is given to `wait`."""
    return cast("T", _Bridge(function, wait).switch())


def in_greenlet() -> bool:
    """Whether `await_only` can be called here."""
    return bool(getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False))


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
