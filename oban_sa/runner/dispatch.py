"""Where code runs: on the loop, in a thread, in a process; with a session of its own or without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

from oban_sa.errors import AttemptCancelled, AttemptError, AttemptTimedOut
from oban_sa.models import Job
from oban_sa.outcomes import Answer, raised
from oban_sa.periods import describe
from oban_sa.runner import forks, frames
from oban_sa.runner.handover import Handover
from oban_sa.runner.overtime import Overtime
from oban_sa.runner.processes import Processes
from oban_sa.runner.sessions import Around, AroundCode, AttemptSessions, Call, Judge
from oban_sa.runner.settling import Settled
from oban_sa.runner.threads import ThreadCall, Threads
from oban_sa.runner.time_limit import TimeLimit
from oban_sa.verdicts import Verdict
from oban_sa.workers.definition import Definition

T = TypeVar("T")


class Dispatch:
    """Calls workers' code where it belongs, with the attempt's timeout applied."""

    def __init__(self, sessions: AttemptSessions, processes: Processes | None = None) -> None:
        self._sessions = sessions
        self._threads = Threads()
        self._processes = processes or Processes()

    async def call(
        self, definition: Definition, job: Job, *, within: float | None, overtime: Overtime | None = None
    ) -> Any:
        """Run the code and return its answer; raises what it raises, and `AttemptTimedOut` after `within` seconds.

        `overtime` hears of an interruption, and of code that went on to an answer after it.
        """
        if definition.executor == "loop" and within is None:
            return await definition.call(job)
        overtime = overtime or Overtime(job)
        if definition.executor == "loop":
            return await _within(TimeLimit(within), overtime, lambda: definition.call(job))
        if definition.executor == "process":
            return await self._processes.call(definition, job, within=within, overtime=overtime)
        call, time_limit = self._threads.call(lambda: forks.called(definition.call, job)), TimeLimit(within)
        answer = await _thread_ended(call, time_limit, overtime)
        overtime.ignored = _ignored(call, time_limit)
        return answer

    async def call_in_session(
        self,
        definition: Definition,
        job: Job,
        judge: Judge,
        *,
        within: float | None,
        overtime: Overtime | None = None,
        around: Around | None = None,
    ) -> Settled:
        """Run code that takes a session; what it wrote and how the job ended are committed together, or neither.

        `around` stands around the code, on this loop, and says what the answer is. Returns the verdict and whether it
        was written: it was not where the attempt had lost its job, and is still to be where there was nothing to commit
        with it. Raises what the code raises, after rolling back.
        """
        time_limit, overtime = TimeLimit(within), overtime or Overtime(job)
        if around is not None:
            return await self._call_around(definition, job, judge, time_limit, overtime, around)
        if definition.session == "async":

            def judged(answer: object) -> Verdict:
                if time_limit.over:
                    overtime.ignored = _timed_out(time_limit)
                return judge(answer)

            return await _within(
                time_limit, overtime, lambda: self._sessions.settled(definition, job, judged, None, time_limit)
            )
        call = self._in_thread(definition, job, judge, None, time_limit, overtime)
        settled: Settled = await _thread_ended(self._threads.start(call), time_limit, overtime)
        return settled

    async def _call_around(
        self,
        definition: Definition,
        job: Job,
        judge: Judge,
        time_limit: TimeLimit,
        overtime: Overtime,
        around: Around,
    ) -> Settled:
        """The same with something around the code. Time counts for the code, and anew for what is written after it."""
        if definition.session == "async":
            timeout = asyncio.timeout(None)

            async def timed(call: Call) -> Any:
                answer = await around(lambda: _within(time_limit, overtime, call))
                time_limit.begin(partial(timeout.reschedule, 0))
                return answer

            try:
                async with timeout:
                    return await self._sessions.settled(definition, job, judge, timed, time_limit)
            except TimeoutError as error:
                if timeout.expired():
                    raise _timed_out(time_limit) from error
                raise
            finally:
                time_limit.end()

        handover = Handover()

        def begin(*, skip: bool = False) -> ThreadCall:
            # Made just now: the context variables of its code are those that are set here.
            call = self._in_thread(definition, job, judge, handover.around, time_limit, overtime)
            handover.begin(call, skip=skip)
            return self._threads.start(call)

        async def code() -> Any:
            begin()
            return await _thread_ended(handover, time_limit, overtime)

        try:
            answer = await around(code)
        except BaseException:
            if handover.call is not None:
                handover.drop()
                # Only waited for: to raise here what it ends with would tie that and the error in hand to each other.
                with contextlib.suppress(BaseException):
                    await _waited(handover.call, TimeLimit(None), overtime)
                    handover.call.future.exception()
                handover.call.forget()
            raise
        # Where the code was not even begun, there is still an outcome to write, and it's written the same way.
        call = handover.call or begin(skip=True)
        handover.decide(answer)
        settled: Settled = await _thread_ended(call, time_limit, overtime)
        return settled

    def _in_thread(
        self,
        definition: Definition,
        job: Job,
        judge: Judge,
        around: AroundCode | None,
        time_limit: TimeLimit,
        overtime: Overtime,
    ) -> ThreadCall:
        def judged(answer: object) -> Verdict:
            overtime.ignored = _ignored(call, time_limit)
            return judge(answer)

        def settled() -> Settled:
            return self._sessions.settled_in_thread(definition, job, judged, around, time_limit, call)

        call = ThreadCall(settled)
        return call

    async def stack(self, job: Job, task: asyncio.Task[Any]) -> str:
        """Return where the code of a job is, which `task` runs."""
        thread_id = self._threads.working_on(job)
        if thread_id is not None:
            return frames.of_thread(thread_id)
        stack = await self._processes.stack(job)
        return frames.of_task(task) if stack is None else stack

    async def close(self) -> None:
        """Let threads and processes go; code that still runs in a thread is left behind."""
        self._threads.abandon()
        await self._threads.close(1.0)
        await self._processes.close()


async def _within(time_limit: TimeLimit, overtime: Overtime, call: Callable[[], Awaitable[T]]) -> T:
    if time_limit.seconds is None:
        return await call()
    timeout = asyncio.timeout(None)

    def expired() -> None:
        timeout.reschedule(0)
        overtime.begin(_timed_out(time_limit))

    try:
        async with timeout:
            time_limit.begin(expired)
            try:
                answer = await call()
            except Answer as said:
                answer = cast("T", raised(said))
        if timeout.expired():
            overtime.ignored = _timed_out(time_limit)
        return answer
    except TimeoutError as error:
        if timeout.expired():
            raise _timed_out(time_limit) from error
        raise
    finally:
        time_limit.end()


async def _thread_ended(call: ThreadCall | Handover, time_limit: TimeLimit, overtime: Overtime) -> Any:
    """Wait until the thread has really ended, and return or raise what came of the code."""
    reason = await _waited(call, time_limit, overtime)
    error = call.future.exception()
    if error is None:
        return call.future.result()
    call.forget()
    try:
        if reason is not None and isinstance(error, type(reason)):
            raise reason.with_traceback(error.__traceback__) from None
        raise error
    finally:
        del error, reason  # a traceback refers to this frame


async def _waited(call: ThreadCall | Handover, time_limit: TimeLimit, overtime: Overtime) -> AttemptError | None:
    """Wait until the thread has really ended: a job whose code still runs must not be started again elsewhere.

    When time is up, or the attempt is cancelled, the code is interrupted at its next Python instruction; returns why.
    """
    reason: AttemptError | None = None

    def expired() -> None:
        nonlocal reason
        if reason is None:
            reason = _timed_out(time_limit)
            overtime.begin(reason)
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
    return reason


def _ignored(call: ThreadCall, time_limit: TimeLimit) -> AttemptError | None:
    ignored = call.ignored()
    if ignored is None:
        return None
    return _timed_out(time_limit) if ignored is AttemptTimedOut else AttemptCancelled()


def _timed_out(time_limit: TimeLimit) -> AttemptTimedOut:
    return AttemptTimedOut(f"the attempt took longer than its timeout of {describe(time_limit.seconds or 0)}")
