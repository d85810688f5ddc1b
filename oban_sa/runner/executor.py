"""One attempt at one job: find its code, run it where it belongs, and say what came of it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import Any

from oban_sa import clock, failures, telemetry
from oban_sa.errors import (
    AttemptCancelled,
    AttemptError,
    AttemptTimedOut,
    CommitUnanswered,
    InvalidArguments,
    WorkerNotFound,
)
from oban_sa.models import Job
from oban_sa.outcomes import Answer, is_error, raised
from oban_sa.runner import forks
from oban_sa.runner.acker import Outcome, report_stale
from oban_sa.runner.dispatch import Dispatch
from oban_sa.runner.overtime import Overtime, tell
from oban_sa.runner.settling import Settled
from oban_sa.runner.unknown import Named, UnknownWorkers
from oban_sa.states import JobState
from oban_sa.verdicts import Attempt, Verdict, given_back, in_spite_of, judge
from oban_sa.workers.current import running
from oban_sa.workers.definition import Definition
from oban_sa.workers.middleware import Chain
from oban_sa.workers.registry import Registry
from oban_sa.workers.versions import later, too_late

logger = logging.getLogger("oban_sa.runner")


class Interrupted(Enum):
    """Why a runner cut an attempt short."""

    CANCELLED = auto()
    """Somebody asked for the job to be cancelled."""
    SHUTDOWN = auto()
    """The runner stops and its grace period is over."""
    LOST = auto()
    """The job was given to another attempt while this one ran."""


class Running:
    """An attempt under way; `attempt` says which, whatever the code does to the job that it is given."""

    __slots__ = ("__weakref__", "asked", "attempt", "begun", "interrupted", "job", "only_asked", "overtime", "task")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.attempt = about(job)
        self.task: asyncio.Task[None] | None = None
        self.interrupted: Interrupted | None = None
        self.begun = False
        self.asked = False
        """Whether somebody asked for the job to be cancelled."""
        self.only_asked = False
        """Whether the code is told of that, and not interrupted."""
        self.overtime: Overtime | None = None

    def interrupt(self, why: Interrupted) -> None:
        """Ask the code to stop, and cancel it at its next await; the first reason given stays."""
        self.job.request_cancel()
        self.asked = self.asked or why is Interrupted.CANCELLED
        if why is Interrupted.CANCELLED and self.only_asked:
            return
        if self.interrupted is None:
            self.interrupted = why
        # A task that is cancelled before it begins never runs at all, and nobody would hear of its job again.
        if self.task is not None and self.begun:
            self.task.cancel()
            self.overtime = self.overtime or Overtime(self.job)
            if why is Interrupted.SHUTDOWN:
                self.overtime.end()
            else:
                self.overtime.begin(AttemptCancelled(_LOST if why is Interrupted.LOST else None))

    def ignored(self, definition: Definition) -> AttemptError | None:
        """The interruption that the code caught and went on after, now that it has come to an answer."""
        ignored = None if self.overtime is None else self.overtime.ignored
        if isinstance(ignored, AttemptTimedOut):
            return ignored
        # An answer that is given although the runner stops is as good as any.
        if self.interrupted is not Interrupted.CANCELLED:
            return None
        return AttemptCancelled() if definition.executor == "loop" else ignored


_LOST = "the job was given to another attempt while this one ran"


class Executor:
    """Runs attempts; everything that can come out of one is an answer."""

    def __init__(
        self,
        dispatch: Dispatch,
        registry: Registry,
        *,
        allow: Sequence[str] = (),
        middleware: Chain | None = None,
        source: telemetry.Source,
        unknown: Callable[[str], UnknownWorkers] | None = None,
    ) -> None:
        """`unknown` gives those of a queue; without it a job that names one fails at once."""
        self._unknown = unknown
        self._dispatch = dispatch
        self._registry = registry
        self._allow = tuple(allow)
        self._middleware = middleware or None
        self._source = source

    async def attempt(self, attempt: Running) -> Outcome | None:
        """Run an attempt to its end; None where its outcome needs no more writing. Never raises."""
        job = attempt.job
        attempt.begun = True
        started = clock.monotonic()
        if telemetry.listening(telemetry.JobStart):
            telemetry.emit(telemetry.JobStart.of(self._source, job, queue_time=_waited(job)))
        definition: Definition | None = None
        settled: Verdict | None = None
        version: int | None = None
        answer: Any
        generation = forks.generation
        with running(job):
            try:
                definition = self._registry.find(job.worker, self._allow)
                attempt.only_asked = definition.options.cancel == "ask"
                if attempt.interrupted is not None:
                    raise asyncio.CancelledError
                # Before there is a session, a middleware or another process that would have to tell of it.
                if attempt.attempt.meta and (version := later(attempt.attempt.meta, definition.options.version)):
                    raise InvalidArguments(too_late(version, definition.options.version))
                answer = await self._run(definition, attempt)
            except Answer as said:
                answer = raised(said)
            except asyncio.CancelledError as error:
                answer = error
                # Cancellation that we asked for is not this task's end: what became of the attempt is still to be said.
                task = asyncio.current_task()
                while task is not None and attempt.interrupted is not None and task.cancelling():
                    task.uncancel()
            except BaseException as error:
                answer = error
        if forks.generation != generation:
            forks.leave(answer)
        if attempt.overtime is not None:
            attempt.overtime.end()
        elif answer is None:  # as of most; the rest is for all others
            verdict = judge(attempt.attempt, None)
            self._tell(job, verdict, None, clock.monotonic() - started)
            return Outcome(job, verdict)
        try:
            if is_error(answer):
                # Not by assigning: a frozen dataclass lets nothing be assigned.
                failures.set_traceback(answer, _of_the_worker(failures.traceback_of(answer)))
            if isinstance(answer, Settled):
                settled = answer.verdict
                if answer.written is False:
                    report_stale(self._source, job, settled.state)
                    return None
            if self._unknown is not None and (definition is None or version is not None):
                answer = self._left_to_others(self._unknown(job.queue), attempt, answer, version)
            if isinstance(answer, Verdict):
                verdict, answer = answer, None
            else:
                verdict = settled or self._judge(definition, attempt, answer)
            self._tell(job, verdict, answer, clock.monotonic() - started)
            if isinstance(answer, Settled) and answer.written:
                return None
            return Outcome(job, verdict, perhaps_written=isinstance(answer, CommitUnanswered))
        finally:
            # From an error lead its traceback, and frames that were called by this one, back to here: what the code had
            # in its variables would stay until the garbage collector finds it.
            del answer

    def _left_to_others(self, unknown: UnknownWorkers, attempt: Running, answer: object, version: int | None) -> object:
        """The verdict on a job that this program does not know how to do, or else the answer."""
        if not isinstance(answer, (WorkerNotFound, InvalidArguments)):
            return answer
        if attempt.asked or attempt.interrupted is not None:
            return answer
        named = Named(attempt.job.worker, version)
        return unknown.met(named, attempt.attempt, scheduled_at=attempt.job.scheduled_at, error=answer)

    async def _run(self, definition: Definition, attempt: Running) -> Any:
        job = attempt.job
        within = definition.timeout(job)
        if within is not None or definition.executor != "loop":
            attempt.overtime = Overtime(job)
        overtime = attempt.overtime
        around = None
        if self._middleware is not None:
            around = partial(self._middleware.around, job=job, definition=definition)
        if definition.session is None:
            if around is None:
                if overtime is None:
                    return await definition.call(job)
                return await self._dispatch.call(definition, job, within=within, overtime=overtime)
            return await around(lambda: self._dispatch.call(definition, job, within=within, overtime=overtime))

        def verdict_of(answer: object) -> Verdict:
            return self._in_spite(definition, attempt, answer, judge(attempt.attempt, answer))

        return await self._dispatch.call_in_session(
            definition, job, verdict_of, within=within, overtime=overtime, around=around
        )

    def _judge(self, definition: Definition | None, attempt: Running, answer: object) -> Verdict:
        job = attempt.job
        if is_error(answer) and (attempt.asked or attempt.interrupted is not None):
            if not attempt.asked and attempt.interrupted is Interrupted.SHUTDOWN:
                return given_back(attempt.attempt)
            cancelled = AttemptCancelled()
            # Code that was only asked to stop may have its own way of saying that it did.
            cancelled.__cause__ = answer if attempt.interrupted is None else None
            answer = cancelled
        delay, undecided = None, None
        try:
            if is_error(answer) and isinstance(answer, Exception) and definition is not None:
                try:
                    delay = definition.backoff(job)
                except BaseException as error:
                    # What the attempt failed of is worth more than this.
                    undecided = error
                    logger.warning(
                        "the backoff of job %s %s was not used: %s",
                        job.id,
                        job.worker,
                        failures.describe(error),
                        extra={"job_id": job.id, "worker": job.worker, "queue": job.queue, "attempt": job.attempt},
                    )
            verdict = judge(attempt.attempt, answer, delay=delay, undecided=undecided)
            return self._in_spite(definition, attempt, answer, verdict)
        finally:
            del answer, undecided

    def _in_spite(self, definition: Definition | None, attempt: Running, answer: object, verdict: Verdict) -> Verdict:
        """The verdict, with the interruption that the code went on after."""
        if attempt.overtime is None or definition is None or is_error(answer):
            return verdict
        if (ignored := attempt.ignored(definition)) is None:
            return verdict
        tell(attempt.job, ignored, verdict.state)
        return in_spite_of(verdict, ignored)

    def _tell(self, job: Job, verdict: Verdict, answer: object, duration: float) -> None:
        if verdict.state in _FAILED:
            if telemetry.listening(telemetry.JobException):
                telemetry.emit(
                    telemetry.JobException.of(
                        self._source,
                        job,
                        queue_time=_waited(job),
                        state=verdict.state,
                        duration=duration,
                        error=answer if is_error(answer) else None,
                        retry_in=verdict.delay,
                    )
                )
        elif telemetry.listening(telemetry.JobStop):
            telemetry.emit(
                telemetry.JobStop.of(self._source, job, queue_time=_waited(job), state=verdict.state, duration=duration)
            )


_FAILED = frozenset({JobState.RETRYABLE, JobState.DISCARDED})


def _waited(job: Job) -> float:
    """Seconds between the moment the job was due and the moment it was fetched."""
    return 0.0 if job.attempted_at is None else max((job.attempted_at - job.scheduled_at).total_seconds(), 0.0)


def about(job: Job) -> Attempt:
    """The attempt that a fetched job stands for."""
    # Past the instrumentation, which would look at each attribute as if it might have to be loaded.
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    return Attempt(
        loaded["id"],
        loaded["attempt"],
        loaded["max_attempts"],
        loaded["meta"],
        tuple(loaded["attempted_by"]),
        loaded["attempted_at"],
    )


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_CALLS_CODE = tuple(
    os.path.join(_OURS, "workers", f"{name}.py") for name in ("definition", "class_body", "function_body")
)


def _of_the_worker(traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins in the worker's code; how the runner got there tells nobody anything."""
    # On the way into a thread with a session lie an event loop and SQLAlchemy, too.
    step = traceback
    while step is not None:
        if step.tb_frame.f_code.co_filename in _CALLS_CODE:
            traceback = step
            break
        step = step.tb_next
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_OURS):
        traceback = traceback.tb_next
    return traceback
