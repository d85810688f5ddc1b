"""`drain`: jobs run here and now, one after another, by what a runner runs them with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeAlias, overload
from uuid import uuid4

from sqlalchemy import Connection, Engine, Executable, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa import telemetry
from oban_sa.models import Job
from oban_sa.runner.acker import Outcome, as_arrays
from oban_sa.runner.dispatch import Dispatch
from oban_sa.runner.executor import Executor, Interrupted, Running
from oban_sa.sql.acking import acking
from oban_sa.sql.fetching import FETCHED, answered, jobs
from oban_sa.sql.literals import inline as literal
from oban_sa.sql.moments import utc_clock, utc_now
from oban_sa.states import JobState
from oban_sa.testing.places import Place, proper
from oban_sa.testing.sharing import SharedSessions
from oban_sa.workers import Registry
from oban_sa.workers import registry as default_registry
from oban_sa.workers.middleware import Chain, Middleware

Counts: TypeAlias = Counter[JobState]
"""How many jobs ended in which state; 0 for those in which none did."""

_ACKING: Final = acking()


@overload
def drain(
    where: AsyncEngine | AsyncConnection | AsyncSession | async_scoped_session[Any],
    *,
    queue: str | Iterable[str] | None = None,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
    schema: str = "public",
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Coroutine[Any, Any, Counts]: ...
@overload
def drain(
    where: Engine | Connection | Session | scoped_session[Any],
    *,
    queue: str | Iterable[str] | None = None,
    with_scheduled: bool = False,
    with_retries: bool = False,
    with_safety: bool = False,
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
    schema: str = "public",
    registry: Registry | None = None,
    middleware: Iterable[Middleware] = (),
) -> Any:
    """Run available jobs, of all queues or some, and those they enqueue, until none is left: how many ended how.

    From a coroutine it is awaited, elsewhere it answers at once. Of an engine it runs committed jobs. Of a session it
    runs those of its open transaction, in that transaction: code that takes a session gets one in a savepoint. A job
    runs once, also where it snoozes; `with_retries` runs a failing one until its attempts are spent, `with_scheduled`
    runs those that are not due yet. What a job raised is recorded and then raised, unless it will be tried again;
    `with_safety` leaves it recorded. Jobs of the session are brought up to date.
    """
    queues = None if queue is None else [queue] if isinstance(queue, str) else list(queue)
    draining = Draining(
        queues=queues,
        with_scheduled=with_scheduled,
        with_retries=with_retries,
        with_safety=with_safety,
        registry=registry or default_registry,
        middleware=middleware,
    )
    coroutine = draining.run(where, schema)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    return coroutine


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
        registry: Registry,
        middleware: Iterable[Middleware] = (),
    ) -> None:
        self._queues = queues
        self._ids = ids
        self._with_scheduled = with_scheduled
        self._with_retries = with_retries
        self._with_safety = with_safety
        self._registry = registry
        self._middleware = Chain(middleware)
        self._holder = ["drain", str(uuid4())]
        self._source = telemetry.Source(node="drain")
        self._ended: dict[int, telemetry.JobStop | telemetry.JobException] = {}
        self.errors: list[BaseException] = []
        """What jobs raised that are not tried again."""

    async def run(self, where: Any, schema: str = "public") -> Counts:
        """Run jobs until none is left."""
        place = await Place.of(where, schema)
        dispatch = Dispatch(SharedSessions(place))
        executor = Executor(dispatch, self._registry, middleware=self._middleware, source=self._source)
        detach = telemetry.attach(self._note, telemetry.JobStop, telemetry.JobException)
        try:
            while (not self.errors or self._with_safety) and (job := await self._next(place)):
                await self._attempt(place, executor, job)
        finally:
            detach()
            await dispatch.close()
        await self._refresh(proper(where))
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

    async def _next(self, place: Place) -> Job | None:
        await place.fetch(self._staging())
        rows = await place.fetch(self._taking(), {})
        return _job(rows[0], self._holder) if rows else None

    async def _attempt(self, place: Place, executor: Executor, job: Job) -> None:
        running = Running(job)
        attempt = asyncio.create_task(_kept(executor, running))
        running.task = attempt  # type: ignore[assignment]
        try:
            outcome = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            running.interrupt(Interrupted.SHUTDOWN)
            await self._write(place, await attempt)
            raise
        await self._write(place, outcome)

    async def _write(self, place: Place, outcome: Outcome | None) -> None:
        if outcome is not None:
            await place.fetch(_ACKING, {"holder": self._holder, **as_arrays([outcome])})

    def _staging(self) -> Executable:
        # Now, and not when the transaction began, which may have been long before the job was made.
        due: Any = jobs.c.scheduled_at <= utc_clock()
        staged: Any = (jobs.c.state == JobState.SCHEDULED) & ~jobs.c.id.in_(list(self._ended))
        if not self._with_scheduled:
            staged &= due
        if self._with_retries:
            staged |= jobs.c.state == JobState.RETRYABLE
        else:
            staged |= (jobs.c.state == JobState.RETRYABLE) & due & ~jobs.c.id.in_(list(self._ended))
        staging: Executable = update(jobs).where(staged, *self._mine()).values(state=JobState.AVAILABLE)
        return staging

    def _taking(self) -> Executable:
        picked = (
            select(jobs.c.id)
            .where(jobs.c.state == JobState.AVAILABLE, jobs.c.attempt < jobs.c.max_attempts, *self._mine())
            .order_by(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
            .cte("picked")
            .prefix_with("MATERIALIZED", dialect="postgresql")
        )
        claim: Any = update(jobs)
        taking: Executable = (
            claim.where(jobs.c.id == picked.c.id)
            .values(
                state=JobState.EXECUTING,
                attempt=jobs.c.attempt + literal("1"),
                attempted_at=utc_now(),
                attempted_by=self._holder,
            )
            .returning(jobs.c.queue, *(answered(name) for name in FETCHED))
        )
        return taking

    def _mine(self) -> list[Any]:
        conditions: list[Any] = []
        if self._queues is not None:
            conditions.append(jobs.c.queue.in_(list(self._queues)))
        if self._ids is not None:
            conditions.append(jobs.c.id.in_(list(self._ids)))
        return conditions

    async def _refresh(self, where: Any) -> None:
        if isinstance(where, AsyncSession):
            await where.run_sync(_refresh, self._ended.keys())
        elif isinstance(where, Session):
            _refresh(where, self._ended.keys())


async def _kept(executor: Executor, running: Running) -> Outcome | None:
    return await executor.attempt(running)


def _refresh(session: Session, ran: Collection[int]) -> None:
    """Bring jobs that the session knows up to date, expiring none."""
    known = {key[1][0] for key in session.identity_map.keys() if issubclass(key[0], Job)}.intersection(ran)  # noqa: SIM118
    if known:
        query = select(Job).where(Job.id.in_(known))
        session.scalars(query, execution_options={"populate_existing": True}).all()


def _job(row: Mapping[str, Any], holder: list[str]) -> Job:
    return Job.from_row({**row, "state": JobState.EXECUTING.value, "attempted_by": list(holder)})
