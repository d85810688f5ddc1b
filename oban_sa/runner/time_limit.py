"""The time that an attempt may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager


class TimeLimit:
    """Calls somebody when so many seconds are over; they don't pass while the attempt waits for its turn.

    None is all the time in the world. It may begin anew after it has ended.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.over = False
        """Whether the time was over since it began."""
        self._expired: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, expired: Callable[[], object]) -> None:
        """Let the time pass from now on."""
        self.over = False
        if self.seconds is not None:
            self._expired = expired
            self._start(self.seconds)

    def end(self) -> None:
        """Call nobody any more."""
        self._expired = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let no time pass during the block; on the loop."""
        timer, self._timer = self._timer, None
        if timer is None or timer.cancelled():
            yield
            return
        timer.cancel()
        left = max(timer.when() - asyncio.get_running_loop().time(), 0.0)
        try:
            yield
        finally:
            if self._expired is not None:
                self._start(left)

    def _start(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._over)

    def _over(self) -> None:
        self._timer = None
        if self._expired is not None:
            self.over = True
            self._expired()
