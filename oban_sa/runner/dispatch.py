"""Where code runs: on the loop, in a thread, in a process; with a session of its own or without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from oban_sa.errors import AttemptCancelled, AttemptError, AttemptTimedOut
from oban_sa.models import Job
from oban_sa.periods import describe
from oban_sa.runner.handover import Handover
from oban_sa.runner.processes import Processes
from oban_sa.runner.sessions import Around, AttemptSessions, Call, Judge, Settled
from oban_sa.runner.threads import ThreadCall, Threads
from oban_sa.workers.definition import Definition

T = TypeVar("T")


class Dispatch:
    """Calls workers' code where it belongs, with the attempt's timeout applied."""

    def __init__(self, sessions: AttemptSessions, processes: Processes | None = None) -> None:
        self._sessions = sessions
        self._threads = Threads(leaving=sessions.leave_thread)
        self._processes = processes or Processes()

    async def call(self, definition: Definition, job: Job, *, within: float | None) -> Any:
        """Run the code and return its answer; raises what it raises, and `AttemptTimedOut` after `within` seconds."""
        if definition.executor == "loop":
            if within is None:
                return await definition.call(job)
            return await _within(within, lambda: definition.call(job))
        if definition.executor == "process":
            return await self._processes.call(definition, job, within=within)
        return await _thread_ended(self._threads.call(lambda: definition.call(job)), within)

    async def call_in_session(
        self, definition: Definition, job: Job, judge: Judge, *, within: float | None, around: Around | None = None
    ) -> Settled:
        """Run code that takes a session; what it wrote and how the job ended are committed together, or neither.

        `around` stands around the code, on this loop, and says what the answer is. Returns the verdict and whether it
        was written: it was not where the attempt had lost its job. Raises what the code raises, after rolling back.
        """
        if around is not None:
            return await self._call_around(definition, job, judge, within, around)
        if definition.session == "async":
            return await _within(within, lambda: self._sessions.settled(definition, job, judge))
        call = self._threads.call(lambda: self._sessions.settled_in_thread(definition, job, judge))
        settled: Settled = await _thread_ended(call, within)
        return settled

    async def _call_around(
        self, definition: Definition, job: Job, judge: Judge, within: float | None, around: Around
    ) -> Settled:
        """The same with something around the code. Time counts for the code, and anew for what is written after it."""
        if definition.session == "async":
            timeout = asyncio.timeout(None)

            async def timed(call: Call) -> Any:
                answer = await around(lambda: _within(within, call))
                if within is not None:
                    timeout.reschedule(asyncio.get_running_loop().time() + within)
                return answer

            try:
                async with timeout:
                    return await self._sessions.settled(definition, job, judge, timed)
            except TimeoutError as error:
                if timeout.expired():
                    raise _timed_out(within or 0) from error
                raise

        handover = Handover()

        def start() -> ThreadCall:
            return self._threads.call(lambda: self._sessions.settled_in_thread(definition, job, judge, handover.around))

        async def code() -> Any:
            handover.begin(start)
            return await _thread_ended(handover, within)

        try:
            answer = await around(code)
        except BaseException:
            if handover.call is not None:
                handover.drop()
                with contextlib.suppress(BaseException):
                    await _thread_ended(handover.call, None)
            raise
        # Where the code was not even begun, there is still an outcome to write, and it's written the same way.
        call = handover.call or handover.skip(start)
        handover.decide(answer)
        settled: Settled = await _thread_ended(call, within)
        return settled

    async def close(self) -> None:
        """Let threads and processes go; code that still runs in a thread is left behind."""
        self._threads.abandon()
        await self._threads.close(1.0)
        await self._processes.close()


async def _within(seconds: float | None, call: Callable[[], Awaitable[T]]) -> T:
    if seconds is None:
        return await call()
    timeout = asyncio.timeout(seconds)
    try:
        async with timeout:
            return await call()
    except TimeoutError as error:
        if timeout.expired():
            raise _timed_out(seconds) from error
        raise


async def _thread_ended(call: ThreadCall | Handover, within: float | None) -> Any:
    """Wait until the thread has really ended: a job whose code still runs must not be started again elsewhere.

    When time is up, or the attempt is cancelled, the code is interrupted at its next Python instruction.
    """
    reason: AttemptError | None = None
    loop = asyncio.get_running_loop()
    deadline = None if within is None else loop.time() + within
    while True:
        rest = None if deadline is None or reason is not None else max(deadline - loop.time(), 0)
        try:
            done, _ = await asyncio.wait([call.future], timeout=rest)
        except asyncio.CancelledError:
            reason = reason or AttemptCancelled()
            call.interrupt(AttemptCancelled)
            continue
        if done:
            break
        reason = _timed_out(within or 0)
        call.interrupt(AttemptTimedOut)
    error = call.future.exception()
    if error is None:
        return call.future.result()
    if reason is not None and isinstance(error, type(reason)):
        raise reason.with_traceback(error.__traceback__) from None
    raise error


def _timed_out(seconds: float) -> AttemptTimedOut:
    return AttemptTimedOut(f"the attempt took longer than its timeout of {describe(seconds)}")
