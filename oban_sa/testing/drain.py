"""`drain`: jobs run here and now, one after another, by what a runner runs them with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, overload
from uuid import uuid4

from sqlalchemy import BigInteger, ColumnElement, Connection, Engine, Executable, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa import telemetry
from oban_sa.errors import InvalidJob
from oban_sa.jobs.durable import WAKING
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.keys import SEQUENCE
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox.sessions import unscoped
from oban_sa.runner.execution.attempt import Interrupted, Running
from oban_sa.runner.execution.executor import Dispatch, Executor
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.sessions.attempt_session import AttemptSessions
from oban_sa.sql.ack import as_arrays
from oban_sa.sql.expressions import array, utc_clock
from oban_sa.sql.fetch import jobs
from oban_sa.sql.flow import note
from oban_sa.sql.lanes import lanes
from oban_sa.sql.locks import lane_key, lock
from oban_sa.sql.plan import Plan
from oban_sa.sql.sequences import release, turn
from oban_sa.sql.settle import LIMIT, settle
from oban_sa.sql.signals import note_wait, wake
from oban_sa.testing.binds import Binding
from oban_sa.testing.dependencies import BoundDependencies
from oban_sa.testing.journals import InTest, by_name
from oban_sa.testing.sessions import SharedSessions
from oban_sa.workers import Registry
from oban_sa.workers import registry as default_registry
from oban_sa.workers.loop import has_loop
from oban_sa.workers.middleware import Chain, Middleware

if TYPE_CHECKING:
    from oban_sa.jobs.keys import Paths
    from oban_sa.runner.execution.chunk import ChunkRun

Counts: TypeAlias = Counter[JobState]
"""How many jobs ended in which state; 0 for those in which none did."""


@overload
def drain(
    where: AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any],
    *,
    queue: str | Iterable[str] | None = None,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
    with_signals: Mapping[str, object] | None = None,
    schema: str = "public",
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Coroutine[object, None, Counts]: ...
@overload
def drain(
    where: Engine | Connection | Session | scoped_session[Any],
    *,
    queue: str | Iterable[str] | None = None,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
    with_signals: Mapping[str, object] | None = None,
    schema: str = "public",
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Counts: ...
def drain(
    where: Any,
    *,
    queue: str | Iterable[str] | None = None,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
    with_signals: Mapping[str, object] | None = None,
    schema: str = "public",
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Any:
    """Run available jobs, of all queues or some, and those they enqueue, until none is left: how many ended how.

    From a coroutine it is awaited, elsewhere it blocks. Of an engine it runs committed jobs. Of a session it runs those
    of its open transaction, in that transaction: code that takes a session gets one in a savepoint. A job runs once,
    also where it snoozes; `with_retries` runs a failing one until its attempts are spent, `with_scheduled` runs those
    that are not due yet, and lets neither `sleep` nor `wait_for(..., within=...)` wait. `with_signals` gives what is
    waited for, by its name; to the second wait of one `name#2`, where that is given. What a job raised is recorded and
    then raised, unless it will be tried again; `with_safety` leaves it recorded. Jobs of the session are refreshed.
    """
    queues = None if queue is None else [queue] if isinstance(queue, str) else list(queue)
    draining = Draining(
        queues=queues,
        with_scheduled=with_scheduled,
        with_retries=with_retries,
        with_safety=with_safety,
        with_signals=with_signals,
        registry=registry or default_registry,
        middleware=middleware,
    )
    coroutine = draining.run(where, schema)
    return coroutine if has_loop() else asyncio.run(coroutine)


class Draining:
    """One drain: which jobs it takes, and what became of them."""

    def __init__(
        self,
        *,
        queues: Collection[str] | None = None,
        ids: Collection[int] | None = None,
        with_scheduled: bool,
        with_retries: bool,
        with_safety: bool,
        with_signals: Mapping[str, object] | None = None,
        registry: Registry,
        middleware: Iterable[Middleware] = (),
        plan: Plan | None = None,
    ) -> None:
        """`plan` says what is asked of all the jobs that are taken, and what follows their acks."""
        self._with_retries = with_retries
        self._with_safety = with_safety
        self._signals = by_name(with_signals, "with_signals")
        self._skips = with_scheduled
        self._home: InTest | None = None
        self._registry = registry
        self._middleware = Chain(middleware)
        self._holder = ["drain", str(uuid4())]
        self._source = telemetry.Source(node="drain")
        self._plan = plan = (plan or Plan()).with_follower(note, note_wait)
        mine = _among(queues, ids)
        self._stage = _stage(*mine, with_scheduled=with_scheduled, with_retries=with_retries)
        self._fetch = plan.fetch_any(*mine)
        self._mine = mine
        self._ack = plan.ack()
        self._turn, self._releasing = turn(), release()
        self._unbooked = True
        """Whether members of flows may have ended since that was last booked."""
        self._ended: dict[int, telemetry.JobStop | telemetry.JobException] = {}
        self.errors: list[BaseException] = []
        """What jobs raised that are not tried again."""

    async def run(self, where: Any, schema: str = "public") -> Counts:
        """Run jobs until none is left."""
        binding = await Binding.of(where, schema)
        home = self._home = InTest(binding, self._signals, skips=self._skips)
        sessions = AttemptSessions(SharedSessions(binding), ack_one=self._plan.ack_one())
        dispatch = Dispatch(sessions, home=home, dependencies=BoundDependencies(binding))
        executor = Executor(dispatch, self._registry, middleware=self._middleware, source=self._source)
        detach = telemetry.attach(self._note, telemetry.JobStop, telemetry.JobException)
        try:
            while (not self.errors or self._with_safety) and (job := await self._next(binding)):
                await self._attempt(binding, executor, job)
        finally:
            detach()
            await dispatch.close()
        await self._refresh(unscoped(where))
        if self.errors and not self._with_safety:
            raise self.errors[0]
        return Counter(event.state for event in self._ended.values())

    def _note(self, event: telemetry.Event) -> None:
        if event.runner is not self._source or not isinstance(event, (telemetry.JobStop, telemetry.JobException)):
            return
        self._ended[event.job_id] = event
        again = self._with_retries and event.state is JobState.RETRYABLE
        if isinstance(event, telemetry.JobException) and event.error is not None and not again:
            self.errors.append(event.error)

    async def _next(self, binding: Binding) -> Job | None:
        if self._unbooked:
            await self._book(binding)
        await binding.fetch(self._stage, {"ended": list(self._ended)})
        given = {**self._plan.parameters, "demand": 1, "holder": self._holder}
        while rows := await binding.fetch(self._fetch, given):
            job = Job.from_row({**rows[0], "state": JobState.EXECUTING.value, "attempted_by": list(self._holder)})
            if SEQUENCE not in job.meta or await self._is_turn(binding, job):
                return job
        # What has run may have sent signals to jobs that wait.
        return await self._next(binding) if await self._book(binding) else None

    async def _is_turn(self, binding: Binding, job: Job) -> bool:
        """Whether the jobs before one in its sequence have ended; else it is parked, and comes when they have."""
        ids = [job.id]
        found = await binding.fetch(self._turn, {"ids": ids, "unasked": ids, "holder": self._holder})
        if found and found[0]["turn"]:
            return True
        await self._release(binding, job)
        return False

    async def _release(self, binding: Binding, job: Job) -> None:
        await binding.fetch(self._releasing, {"of_queue": job.queue, "keys": [str(job.meta[SEQUENCE])]})

    async def _attempt(self, binding: Binding, executor: Executor, job: Job) -> None:
        self._unbooked = LANE in job.meta
        running = Running.of(job)
        chunks = _Gathering(binding, self._fetch_more, self._holder)
        attempt = asyncio.create_task(executor.attempt(running, chunks))
        running.task = attempt
        try:
            outcome = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            running.interrupt(Interrupted.SHUTDOWN)
            await self._write(binding, running, await attempt)
            raise
        await self._write(binding, running, outcome)
        if SEQUENCE in job.meta:
            await self._release(binding, job)

    async def _write(self, binding: Binding, running: Running, outcome: Outcome | None) -> None:
        if self._home is not None:
            await self._home.keep(running.attempt.job_id)
        verdicts = [] if outcome is None else [outcome.verdict]
        if running.chunk is not None:
            verdicts += [each.verdict for each in running.chunk.outcomes.values()]
            self._unbooked = self._unbooked or any(LANE in each.job.meta for each in running.chunk.added)
        if verdicts:
            await binding.fetch(self._ack, {"holder": self._holder, **as_arrays(verdicts)})

    def _fetch_more(self, by: Paths | None) -> Executable:
        from oban_sa.sql.chunk import IN_QUEUE, of_chunk

        return self._plan.with_filter(of_chunk(by)).fetch_any(*self._mine, IN_QUEUE)

    async def _book(self, binding: Binding) -> bool:
        """Book what has become of members of flows, as a runner's settler does, until there is nothing left.

        Returns whether jobs were released by it.
        """
        schema, self._unbooked, released = binding.schema, False, False
        while found := await binding.fetch(lanes(schema)):
            for row in found:
                given: dict[str, object] = {"limit": LIMIT, "channel": "", "announcing": False}
                if row["lane"] == WAKING:
                    booking, given = wake(schema), {**given, "lane": WAKING, "after": 0}
                else:
                    booking, given = settle(schema), {**given, "lanes": [row["lane"]], "afters": [0]}
                key = {"key": lane_key(schema, row["lane"])}
                [booked] = await binding.fetch(booking, given, after=(lock(), key))
                released = released or booked["released"] > 0
                if booked["again"] > booked["cancelled"]:  # a row is locked, which a drain does not wait for
                    return released
        return released

    async def _refresh(self, where: Any) -> None:
        if isinstance(where, AsyncSession):
            await where.run_sync(_refresh, self._ended.keys())
        elif isinstance(where, Session):
            _refresh(where, self._ended.keys())


class _Gathering:
    """Takes jobs for a chunk that are there; it waits for no others."""

    def __init__(self, binding: Binding, fetch: Callable[[Paths | None], Executable], holder: list[str]) -> None:
        self._binding = binding
        self._fetch = fetch
        self._holder = holder

    async def gather(self, chunk: ChunkRun) -> None:
        """Add jobs to a chunk that begins."""
        options, job = chunk.definition.options.chunk, chunk.first.job
        if options is None or options.size == 1 or SEQUENCE in job.meta:
            return
        given: dict[str, object] = {"demand": options.size - 1, "holder": self._holder, "chunk_queue": job.queue}
        given["chunk_workers"] = [chunk.definition.name, *chunk.definition.aliases]
        if options.by is not None:
            try:
                given["chunk_key"] = options.by.key(job.worker, job.args, job.meta, what="by")
            except InvalidJob:  # a value is missing, or makes no key: it stays alone
                return
        for row in await self._binding.fetch(self._fetch(options.by), given):
            more = Job.from_row({**row, "state": JobState.EXECUTING.value, "attempted_by": list(self._holder)})
            chunk.add(Running.of(more))


def _refresh(session: Session, ran: Collection[int]) -> None:
    """Bring jobs that the session knows up to date, expiring none."""
    known = {key[1][0] for key in session.identity_map.keys() if issubclass(key[0], Job)}.intersection(ran)  # noqa: SIM118
    if known:
        query = select(Job).where(Job.id.in_(known))
        session.scalars(query, execution_options={"populate_existing": True}).all()


def _among(queues: Collection[str] | None, ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if queues is not None:
        conditions.append(jobs.c.queue.in_(list(queues)))
    if ids is not None:
        conditions.append(jobs.c.id.in_(list(ids)))
    return conditions


def _stage(*mine: ColumnElement[bool], with_scheduled: bool, with_retries: bool) -> Executable:
    """Make jobs available: those that are due, and those that are drained before. Parameter: `ended`, ids.

    A job that has run is not made available again, but where it is retried.
    """
    # By the clock, and not by when the transaction began, which may have been long before the job was made.
    due = jobs.c.scheduled_at <= utc_clock()
    fresh = jobs.c.id != func.all(array("ended", BigInteger()))
    scheduled = (jobs.c.state == JobState.SCHEDULED) & fresh
    retryable = jobs.c.state == JobState.RETRYABLE
    staged = or_(
        scheduled if with_scheduled else scheduled & due,
        retryable if with_retries else retryable & due & fresh,
    )
    return update(jobs).where(staged, *mine).values(state=JobState.AVAILABLE)
