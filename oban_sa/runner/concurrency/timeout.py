"""The time that an attempt may take, and how code is ended whose time is up or whose attempt is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import TypeVar, cast

from oban_sa.errors import AttemptCancelled, AttemptError, AttemptTimedOut
from oban_sa.jobs.answers import Answer, raised
from oban_sa.models import Job
from oban_sa.runner.concurrency.overtime import Overtime
from oban_sa.runner.concurrency.threads import ThreadCall
from oban_sa.schedule.periods import describe

T = TypeVar("T")


class TimeLimit:
    """A timer that runs while an attempt's code runs, and stands still while the attempt waits for its turn.

    It may begin again after it has ended, with what is left of the time; or with all of it, where the time was over and
    the code went on to an answer. It also remembers what came of an interruption, by the limit or by a cancellation,
    and is there for that alone where `seconds` is None.
    """

    def __init__(self, job: Job, seconds: float | None = None) -> None:
        self.seconds = seconds
        self.ignored: AttemptError | None = None
        """The interruption after which the code went on to an answer."""
        self._job = job
        self._left = seconds
        self._expired: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overtime: Overtime | None = None
        self._closed = False

    def begin(self, expired: Callable[[], object]) -> None:
        """Let the time pass from now on; `expired` is called when it is over."""
        if self._left is not None:
            self._expired = expired
            self._start(self._left)

    def end(self) -> None:
        """Stop the timer: `expired` isn't called any more."""
        self._expired = None
        if self._timer is not None:
            self._left = self._stop(self._timer)

    @contextmanager
    def paused(self) -> Generator[None]:
        """Let no time pass during the block; on the loop."""
        timer = self._timer
        if timer is None or timer.cancelled():
            yield
            return
        left = self._left = self._stop(timer)
        try:
            yield
        finally:
            if self._expired is not None:
                self._start(left)

    def _start(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._over)

    def _stop(self, timer: asyncio.TimerHandle) -> float:
        """Stop the timer and return how many seconds were left."""
        self._timer = None
        timer.cancel()
        return max(timer.when() - asyncio.get_running_loop().time(), 0.0)

    def _over(self) -> None:
        self._timer = None
        self._left = self.seconds
        if self._expired is not None:
            self._expired()

    def interrupted(self, why: AttemptError) -> None:
        """Say in the log that the code still runs, from ten seconds on until `close`; on the loop."""
        if not self._closed:
            self._overtime = self._overtime or Overtime(self._job)
            self._overtime.begin(why)

    def close(self) -> None:
        """Say no more in the log: the attempt is over, or the runner stops, after which nothing runs for long."""
        self._closed = True
        if self._overtime is not None:
            self._overtime.end()

    def timed_out(self) -> AttemptTimedOut:
        """The error of an attempt whose time is over."""
        return AttemptTimedOut(f"the attempt took longer than its timeout of {describe(self.seconds or 0)}")


async def on_loop(call: Callable[[], Awaitable[T]], time_limit: TimeLimit) -> T:
    """Await `call()` and return its answer; when its time is up, cancel it and raise `AttemptTimedOut`."""
    timeout = asyncio.timeout(None)

    def expired() -> None:
        timeout.reschedule(0)
        time_limit.interrupted(time_limit.timed_out())

    try:
        async with timeout:
            time_limit.begin(expired)
            try:
                answer = await call()
            except Answer as said:
                answer = cast("T", raised(said))
        if timeout.expired():
            time_limit.ignored = time_limit.timed_out()
        return answer
    except TimeoutError as error:
        if timeout.expired():
            raise time_limit.timed_out() from error
        raise
    finally:
        time_limit.end()


async def in_thread(call: ThreadCall, time_limit: TimeLimit) -> object:
    """Wait until a thread's call has really ended, and return or raise what came of it.

    A job whose code still runs must not be started again elsewhere. So when time is up, or the attempt is cancelled,
    the code is interrupted at its next Python instruction, and waited for all the same.
    """
    reason: AttemptError | None = None

    def expired() -> None:
        nonlocal reason
        if reason is None:
            reason = time_limit.timed_out()
            time_limit.interrupted(reason)
            call.interrupt(AttemptTimedOut)

    time_limit.begin(expired)
    try:
        while not call.future.done():
            try:
                await asyncio.wait([call.future])
            except asyncio.CancelledError:
                reason = reason or AttemptCancelled()
                call.interrupt(AttemptCancelled)
    finally:
        time_limit.end()
    error = call.future.exception()
    if error is None:
        if (ignored := call.ignored()) is not None:
            time_limit.ignored = time_limit.timed_out() if ignored is AttemptTimedOut else AttemptCancelled()
        answer = call.future.result()
        call.forget()
        return answer
    call.forget()
    try:
        if reason is not None and isinstance(error, type(reason)):
            raise reason.with_traceback(error.__traceback__) from None
        raise error
    finally:
        del error, reason  # a traceback refers to this frame
