"""One attempt at one job, in the order in which it happens: find the code, run it, judge the answer, commit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from oban_sa import telemetry
from oban_sa.arguments.versions import later, too_late
from oban_sa.describe import exceptions
from oban_sa.describe.job_facts import job_facts
from oban_sa.errors import AttemptCancelled, CommitUnanswered, InvalidArguments, InvalidOption, WorkerNotFound
from oban_sa.jobs import deadline
from oban_sa.jobs.answers import Answer, Cancel, is_error, raised, refuse_unawaited
from oban_sa.jobs.durable import JOURNAL
from oban_sa.jobs.flow import READS
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict, given_back, in_spite_of, judge
from oban_sa.models import Job
from oban_sa.runner.cluster.tally import FULL, Tally
from oban_sa.runner.concurrency import forks, frames, overtime, timeout
from oban_sa.runner.concurrency.processes.pool import Processes
from oban_sa.runner.concurrency.threads import Threads
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.runner.concurrency.tracebacks import of_the_worker
from oban_sa.runner.execution.attempt import Interrupted, Running, waited
from oban_sa.runner.execution.dependencies import Dependencies
from oban_sa.runner.execution.home import Home, journal_of, remembering
from oban_sa.runner.execution.outcome import Outcome, report_stale
from oban_sa.runner.execution.unknown_workers import Named, UnknownWorkers
from oban_sa.runner.sessions.attempt_session import AttemptSession, AttemptSessions, SessionInThread, SessionOnLoop
from oban_sa.schedule import clock
from oban_sa.telemetry.handlers import listeners
from oban_sa.workers.current import ATTEMPT, CURRENT
from oban_sa.workers.definition import Definition
from oban_sa.workers.middleware import Chain
from oban_sa.workers.registry import Registry

if TYPE_CHECKING:
    from oban_sa.runner.execution.chunk import Chunks
    from oban_sa.steps.journal import Journal

logger = logging.getLogger("oban_sa.runner")


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
        counts: bool = False,
    ) -> None:
        """`unknown` gives those of a queue; without it a job that names one fails at once."""
        self.tally: Final = Tally() if counts else None
        """Counts the attempts, if that is wanted."""
        self._unknown = unknown
        self._dispatch = dispatch
        self._registry = registry
        self._known = registry.known
        self._allow = tuple(allow)
        self._middleware = middleware or None
        self._source = source
        self._journal = partial(dispatch.journal, source=source)

    async def attempt(self, attempt: Running, chunks: Chunks | None = None) -> Outcome | None:
        """Run an attempt to its end; None where its outcome needs no more writing. Never raises.

        One at the first job of a chunk is that of all its jobs, which `chunks` gathers; `attempt.chunk` then has the
        outcomes of the others. One whose job has joined another chunk ends at once, without an outcome.
        """
        attempt.begun = True
        job = attempt.job
        if attempt.unreadable is not None:
            return self._unread(attempt, attempt.unreadable)
        started = clock.monotonic()
        if listeners[telemetry.JobStart]:
            telemetry.emit(telemetry.JobStart.of(self._source, job, queue_time=waited(job)))
        generation = forks.generation
        token = CURRENT.set(job)
        attempt.home = self._journal
        ATTEMPT.set(attempt)
        answer: object
        try:
            # Past the instrumentation, as in `about`.
            definition = self._known.get(vars(job)["worker"]) or self._registry.find(job.worker, self._allow)
            attempt.definition = definition
            if attempt.interrupted is not None:
                raise asyncio.CancelledError
            if attempt.attempt.meta:
                await self._enter(attempt, attempt.attempt.meta, definition)
            if definition.is_plain and self._middleware is None:  # as of most
                answer = await definition.call(job)
            elif definition.options.chunk is None:
                answer = await self._run(attempt, definition)
            else:
                answer = await self._run_chunk(attempt, definition, chunks)
            if answer is not None:
                refuse_unawaited(answer)
            if attempt.durable is not None:
                cast("Journal", attempt.durable).refuse_unawaited()
        except Answer as said:
            answer = raised(said)
        except asyncio.CancelledError as error:
            attempt.uncancel()
            answer = error
        except BaseException as error:
            answer = error
        try:
            if forks.generation != generation:
                forks.leave(answer)
            attempt.recall()
            if attempt.chunk is not None:
                outcome = await attempt.chunk.conclude(
                    attempt, answer, self._verdict_on, partial(self._tell_of, started)
                )
                CURRENT.reset(token)
                return outcome
            committed = None
            limit = attempt.time_limit
            if (
                answer is None
                and attempt.interrupted is None
                and attempt.durable is None
                and (limit is None or limit.ignored is None)
            ):  # as of most
                verdict = judge(attempt.attempt, None)
            else:
                verdict, answer = self._verdict(attempt, answer)
            if (session := attempt.session) is not None and session.is_open:
                verdict, answer, committed = await self._commit(attempt, session, verdict, answer)
                attempt.recall()
            CURRENT.reset(token)
            if attempt.time_limit is not None:  # which an interruption may have set meanwhile
                attempt.time_limit.close()
            if committed is False:
                report_stale(self._source, job, verdict.state)
                return None
            if (tally := self.tally) is not None and attempt.interrupted is not Interrupted.LOST:
                loaded = vars(job)
                ended = tally.completed.get(loaded["queue"]) if verdict.state is JobState.COMPLETED else None
                if ended is None or (count := len(ended.workers)) >= FULL:
                    tally.ended(loaded, verdict.state, answer, started)
                else:  # as of most: noted here, without a call
                    if not count & ended.mask:
                        ended.times.extend(
                            (count, started, clock.monotonic(), loaded["scheduled_at"], loaded["attempted_at"])
                        )
                    ended.workers.append(loaded["worker"])
            if verdict.state in _FAILED or listeners[telemetry.JobStop] or attempt.interrupted is not None:
                self._tell(attempt, verdict, answer, clock.monotonic() - started)
            return None if committed else Outcome(attempt, verdict, 0, isinstance(answer, CommitUnanswered))
        finally:
            # From an error lead its traceback, and frames that were called by this one, back to here: what the code had
            # in its variables would stay until the garbage collector finds it.
            del answer

    async def _enter(self, attempt: Running, meta: Mapping[str, object], definition: Definition) -> None:
        """Do what a job's meta asks for before there is a session, middleware or another process; raises to refuse."""
        job = attempt.job
        if version := later(meta, definition.options.version):
            attempt.later_version = version
            raise InvalidArguments(too_late(version, definition.options.version))
        if JOURNAL in meta:  # so it has begun before, and goes on
            if definition.options.chunk is None:  # whose code takes no steps
                await cast("Journal", attempt.journal).read()
        # Both moments are the row's, by the database's clock.
        elif late := deadline.missed(meta, scheduled_at=job.scheduled_at, attempted_at=job.attempted_at):
            raise Cancel(late)
        if meta.get("encrypted") is True:
            attempt.unseal()
        if READS in meta:
            await self._dispatch.enter(job)

    async def _run_chunk(self, attempt: Running, definition: Definition, chunks: Chunks | None) -> object:
        """Gather jobs for the chunk of an attempt, and run the code with all of them."""
        from oban_sa.runner.execution.chunk import ChunkRun  # which few runners need

        jobs = await ChunkRun(attempt, definition).gather(chunks, began=self._tell_begun, enter=self._enter)
        return await self._run(attempt, definition.of_chunk(jobs)) if jobs else None

    def _tell_begun(self, job: Job) -> None:
        if listeners[telemetry.JobStart]:
            telemetry.emit(telemetry.JobStart.of(self._source, job, queue_time=waited(job)))

    def _verdict_on(self, attempt: Running, answer: object) -> Verdict:
        return self._verdict(attempt, answer)[0]

    def _tell_of(self, started: float, attempt: Running, verdict: Verdict, answer: object) -> None:
        if self.tally is not None and attempt.interrupted is not Interrupted.LOST:
            self.tally.ended(vars(attempt.job), verdict.state, answer, started)
        self._tell(attempt, verdict, answer, clock.monotonic() - started)

    async def _run(self, attempt: Running, definition: Definition) -> object:
        """Run the code where it belongs, within the middleware."""
        call = self._call(attempt, definition, definition.timeout(attempt.job) if definition.has_timeout else None)
        if self._middleware is None:
            return await call()
        return await self._middleware.around(call, job=attempt.job, definition=definition)

    def _unread(self, attempt: Running, error: Exception) -> Outcome:
        """Return the outcome of a row that can't be read: it fails by itself, and delays no other."""
        job = attempt.job
        facts = job_facts(job)
        logger.error("job %d of queue %s can't be read: %s", job.id, job.queue, exceptions.describe(error), extra=facts)
        return Outcome(attempt, judge(attempt.attempt, error))

    def _call(self, attempt: Running, definition: Definition, seconds: float | None) -> Callable[[], Awaitable[Any]]:
        """Return what runs the code where it belongs, in the middle of the middleware."""
        if seconds is not None:
            attempt.time_limit = TimeLimit(attempt.job, seconds)
        if definition.session_class is None:
            return partial(self._dispatch.call, definition, attempt)
        session = attempt.session = self._dispatch.session(definition, attempt)
        # Middleware also sees what the database refuses of the code's writes.
        return partial(session.run, flush=self._middleware is not None)

    def _verdict(self, attempt: Running, answer: object) -> tuple[Verdict, object]:
        """Return what happens to the job, and what listeners are told of: the answer, or an error in its place."""
        if is_error(answer):
            # Not by assigning: a frozen dataclass lets nothing be assigned.
            exceptions.set_traceback(answer, of_the_worker(exceptions.traceback_of(answer)))
            attempt.hide(answer)
            answer = self._left_to_others(attempt, answer)
        if isinstance(answer, Verdict):
            verdict, answer = answer, None
        else:
            verdict = self._judge(attempt, answer)
            if attempt.durable is not None or attempt.chunk is not None:
                verdict = remembering(attempt, verdict, self._source)
        if (meta := attempt.attempt.meta) and deadline.SPAN in meta:
            verdict = deadline.kept(verdict, meta, attempt.job.scheduled_at)
        return attempt.hidden(verdict), answer

    async def _commit(
        self, attempt: Running, session: AttemptSession, verdict: Verdict, answer: object
    ) -> tuple[Verdict, object, bool | None]:
        """Commit what the code wrote together with the verdict on it; where that fails, the error is the answer."""
        if answer is not None and is_error(answer):
            await session.close()
            return verdict, answer, None
        try:
            return verdict, answer, await session.commit(verdict)
        except BaseException as error:
            attempt.uncancel()
            return *self._verdict(attempt, error), None

    def _left_to_others(self, attempt: Running, error: BaseException) -> object:
        """The verdict on a job that this program does not know how to do, or else the error."""
        if self._unknown is None or (attempt.definition is not None and attempt.later_version is None):
            return error
        if not isinstance(error, (WorkerNotFound, InvalidArguments)):
            return error
        if attempt.asked or attempt.interrupted is not None:
            return error
        named = Named(attempt.job.worker, attempt.later_version)
        unknown = self._unknown(attempt.job.queue)
        return unknown.met(named, attempt.attempt, scheduled_at=attempt.job.scheduled_at, error=error)

    def _judge(self, attempt: Running, answer: object) -> Verdict:
        if not is_error(answer):
            verdict = judge(attempt.attempt, answer)
            if (ignored := attempt.ignored()) is None:
                return verdict
            # The code went on after its interruption, and its answer counts.
            overtime.tell(attempt.job, ignored, verdict.state)
            return in_spite_of(verdict, ignored)
        delay, undecided = None, None
        try:
            if attempt.asked or attempt.interrupted is not None:
                if not attempt.asked and attempt.interrupted is Interrupted.SHUTDOWN:
                    return given_back(attempt.attempt)
                cancelled = AttemptCancelled()
                # Code that was only asked to stop may have its own way of saying that it did.
                cancelled.__cause__ = answer if attempt.interrupted is None else None
                answer = cancelled
            elif isinstance(answer, Exception) and attempt.definition is not None:
                delay, undecided = self._backoff(attempt.job, attempt.definition)
            return judge(attempt.attempt, answer, delay=delay, undecided=undecided)
        finally:
            del answer, undecided

    def _backoff(self, job: Job, definition: Definition) -> tuple[float | None, BaseException | None]:
        """Return what the worker says of the wait before the next attempt, or what it raised."""
        try:
            return definition.backoff(job), None
        except BaseException as error:
            # What the attempt failed of is worth more than this.
            logger.warning(
                "the backoff of job %s %s was not used: %s",
                job.id,
                job.worker,
                exceptions.describe(error),
                extra=job_facts(job),
            )
            return None, error

    def _tell(self, attempt: Running, verdict: Verdict, answer: object, duration: float) -> None:
        job = attempt.job
        if attempt.interrupted is Interrupted.LOST:  # so the fence will refuse the outcome
            report_stale(self._source, job, verdict.state)
        elif verdict.state not in _FAILED:
            telemetry.emit(
                telemetry.JobStop.of(self._source, job, queue_time=waited(job), state=verdict.state, duration=duration)
            )
        elif listeners[telemetry.JobException]:
            telemetry.emit(
                telemetry.JobException.of(
                    self._source,
                    job,
                    queue_time=waited(job),
                    state=verdict.state,
                    duration=duration,
                    error=answer if is_error(answer) else None,
                    retry_in=verdict.delay,
                )
            )


_FAILED = frozenset({JobState.RETRYABLE, JobState.DISCARDED})


class Dispatch:
    """Calls workers' code where it belongs, with the attempt's timeout applied."""

    def __init__(
        self,
        sessions: AttemptSessions,
        processes: Processes | None = None,
        *,
        home: Home | None = None,
        dependencies: Dependencies | None = None,
    ) -> None:
        """`home` is where journals of attempts are; `dependencies` reads what members of workflows waited for."""
        self._sessions = sessions
        self._dependencies = dependencies
        self._threads = Threads()
        self._home = home
        self._processes = processes or Processes()

    async def enter(self, job: Job) -> None:
        """Read what a member of a workflow waited for, before its code begins."""
        if self._dependencies is not None:
            await self._dependencies.enter(job)

    async def call(self, definition: Definition, attempt: Running) -> object:
        """Run code that takes no session and return its answer.

        Raises what the code raises, `AttemptTimedOut` when its time is up, and `AttemptCancelled` where it runs in a
        thread or a process and the attempt is cancelled.
        """
        job = attempt.job
        if definition.executor == "loop":
            if attempt.time_limit is None:
                return await definition.call(job)
            return await timeout.on_loop(lambda: definition.call(job), attempt.time_limit)
        time_limit = attempt.limited()
        if definition.executor == "process":
            return await self._processes.call(definition, job, time_limit=time_limit, attempt=attempt)
        call = self._threads.call(lambda: forks.called(definition.call, job))
        return await timeout.in_thread(call, time_limit)

    def session(self, definition: Definition, attempt: Running) -> AttemptSession:
        """Return what runs code that takes a session, and commits what it wrote together with the outcome."""
        if definition.session == "async":
            return SessionOnLoop(self._sessions, definition, attempt.job, time_limit=attempt.time_limit)
        limit = attempt.limited()
        return SessionInThread(self._sessions, definition, attempt.job, time_limit=limit, threads=self._threads)

    def journal(self, running: Running, *, source: telemetry.Source) -> Journal:
        """Return what the durable steps of an attempt are written into."""
        if self._home is None:
            raise InvalidOption("there is no journal here for durable steps")
        return journal_of(self._home, running, self._threads, source)

    async def stack(self, job: Job, task: asyncio.Task[object]) -> str:
        """Return where the code of a job is, which `task` runs."""
        thread_id = self._threads.working_on(job)
        if thread_id is not None:
            return frames.of_thread(thread_id)
        return await self._processes.stack(job) or frames.of_task(task)

    async def close(self) -> None:
        """Let threads and processes go; code that still runs in a thread is left behind."""
        self._threads.abandon()
        await self._threads.close(1.0)
        await self._processes.close()
        if self._home is not None:
            await self._home.close()
        if self._dependencies is not None:
            await self._dependencies.close()
