"""`Runner`: fetches jobs and runs them; its constructor lists its parts, and its life is their start and stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import telemetry
from oban_sa.catalog.inspection import Found
from oban_sa.catalog.verify import check
from oban_sa.errors import RunnerError
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.retention import Prune
from oban_sa.runner.cluster.attempt_age import Written, Young
from oban_sa.runner.cluster.heartbeat import Heartbeat
from oban_sa.runner.cluster.notifier import Listener, Notifier
from oban_sa.runner.cluster.signals import Signals
from oban_sa.runner.cluster.stacks import Stacks
from oban_sa.runner.concurrency.processes.pool import Processes
from oban_sa.runner.concurrency.wait import until
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import compiled
from oban_sa.runner.database.start_steps import StoppedEarly, taken
from oban_sa.runner.execution.attempt import Interrupted
from oban_sa.runner.execution.dependencies import RunnersDependencies
from oban_sa.runner.execution.executor import Dispatch, Executor
from oban_sa.runner.execution.home import InDatabase
from oban_sa.runner.execution.unknown_workers import of_queues
from oban_sa.runner.health.reports import Reports
from oban_sa.runner.maintenance.beside import Beside
from oban_sa.runner.queue.exchange import of_beginning, of_completion
from oban_sa.runner.queue.first_connections import connect_all
from oban_sa.runner.queue.idle import Idle
from oban_sa.runner.queue.poll import Poll
from oban_sa.runner.queue.producer import Producer
from oban_sa.runner.queue.queues import Queues
from oban_sa.runner.queue.ranks import Ranks
from oban_sa.runner.queue.settings import Decisions
from oban_sa.runner.sessions.attempt_session import AttemptSessions
from oban_sa.runner.sessions.connections import Connections
from oban_sa.runner.sessions.factories import ApplicationSessions, Sessions
from oban_sa.runner.sessions.in_doubt import Inquiry
from oban_sa.runner.sessions.same_database import check_same_database
from oban_sa.schedule import clock
from oban_sa.schedule.periods import Period
from oban_sa.settings.queues import at_once, limits_of
from oban_sa.settings.settings import Settings, of_keywords
from oban_sa.telemetry import log
from oban_sa.telemetry.lines import in_line
from oban_sa.wire import messages
from oban_sa.workers.middleware import Chain, Middleware
from oban_sa.workers.registry import Registry, registry_of

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits, Queue
    from oban_sa.prometheus.snapshot import Snapshot

logger = logging.getLogger("oban_sa.runner")
logger.addFilter(in_line)

DEFAULT: Final = Settings()
"""The defaults of the keywords, as the rows of `oban_sa.settings.options` have them."""

UNWINDING = 1.0
"""Seconds that code has to end after it was interrupted at shutdown."""


class Runner:
    """Fetches jobs and runs them until it is stopped.

        async with Runner(engine, queues={"default": 10, "mailers": 5}) as runner:
            ...

    `engine` is an `AsyncEngine` on asyncpg; the runner opens connections of its own beside the engine's pool: one
    per queue and five more. `queues` holds how many jobs of each run at once, or a `Queue` with limits for all
    nodes together. `allow` names modules and packages that may be imported when a job names a worker that isn't
    registered yet; nothing else ever is. Spans of time are seconds, timedeltas or texts like "5 minutes". Leaving
    the block stops gracefully: running jobs get `grace`, and those cut short are given back without spending an
    attempt.

    A node that is silent for `dead_after` is dead, and its jobs are given to others. `abandoned_after` also gives back
    what nodes of other members of the family began that long ago and left behind; it is off by default, and needs them
    to be dead by all that is known of them. Beside such nodes no job of this one looks older than `keep_young_after`,
    since they take one that began long ago for lost; None lets it.
    Jobs of a worker that this program does not know, or with args of a later version than it reads, spend no attempt
    here and are left to programs that know them; one that no program knew for `unknown_after` fails, and with None
    never. `prune` says which jobs that are over are deleted while this node leads, or after what age; None keeps all.
    `middleware` stands around every attempt, outermost first. With a `health_port` `/live` and `/ready` are served on
    `health_host`; with `prometheus` the runner counts what it does, and serves that at `/metrics` there. Code that
    blocks the event loop for `blocked_after` is named in the log; None looks away. `metrics` tells Oban Web what this
    node does; every `metrics_every` it is written into a table for the dashboard, and with None it is not.

    `sessions` makes the sessions that workers are given: the application's `async_sessionmaker`, a `sessionmaker` where
    all of them are synchronous, or anything that returns a new session; without it they are made from `engine`. They
    take connections from the application's pool, `pool_size` of them at most, or `connections`. An attempt that leaves
    one idle in a transaction for `idle_in_transaction_after` is named in the log; None looks away. In these sessions
    "public" stands for `schema`, and so does each schema of the application's models in `translate` (None for those
    that name no schema), unless the engine's own `schema_translate_map` says otherwise.

    At most `process_pool` processes run jobs with `executor="process"`, by default one for each processor; each imports
    the modules in `imports` when it starts, and is replaced after `recycle_after` jobs.

    Raises `InvalidOption` for options that can't be used, and when it starts `SchemaMissing` or `SchemaOutdated`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        queues: Mapping[str, Queue | int] | None = None,
        schema: str = DEFAULT.schema,
        name: str = DEFAULT.name,
        node: str | None = None,
        grace: Period = DEFAULT.grace,
        heartbeat_every: Period = DEFAULT.heartbeat_every,
        dead_after: Period = DEFAULT.dead_after,
        poll_every: Period = DEFAULT.poll_every,
        stage_every: Period = DEFAULT.stage_every,
        allow: Iterable[str] = DEFAULT.allow,
        abandoned_after: Period | None = DEFAULT.abandoned_after,
        keep_young_after: Period | None = DEFAULT.keep_young_after,
        metrics: bool = DEFAULT.metrics,
        crontab: Iterable[CronEntry] = DEFAULT.crontab,
        listen_url: str | None = DEFAULT.listen_url,
        prune: Prune | Period | None = DEFAULT.prune,
        middleware: Iterable[Middleware] = (),
        health_port: int | None = DEFAULT.health_port,
        health_host: str = DEFAULT.health_host,
        prometheus: bool = DEFAULT.prometheus,
        blocked_after: Period | None = DEFAULT.blocked_after,
        sessions: Sessions | None = None,
        connections: int | None = DEFAULT.connections,
        idle_in_transaction_after: Period | None = DEFAULT.idle_in_transaction_after,
        translate: Iterable[str | None] = DEFAULT.translate,
        process_pool: int | None = DEFAULT.process_pool,
        recycle_after: int | None = DEFAULT.recycle_after,
        imports: Iterable[str] = DEFAULT.imports,
        registry: Registry | None = None,
        unknown_after: Period | None = DEFAULT.unknown_after,
        metrics_every: Period | None = DEFAULT.metrics_every,
    ) -> None:
        self._settings = settings = of_keywords(locals())
        self.name, self.node, self.schema = settings.name, settings.node, settings.schema
        self.queues = at_once(settings.queues)
        self._source = source = telemetry.Source(node=self.node, name=self.name, schema=self.schema)
        self.engine: Final = engine
        """The engine of the database that has the tables."""
        self._database = database = Database(engine, schema=self.schema)
        self._registry = registry_of(registry)

        # One attempt: its session, and where its code runs.
        self._sessions = None if sessions is None else ApplicationSessions(sessions)
        self._written = Written()
        in_sessions = Connections(schema=self.schema, translate=settings.translate, limit=settings.connections)
        self._dispatch = Dispatch(
            AttemptSessions(
                self._sessions or engine,
                in_sessions,
                Inquiry(database, self._written),
                self._written,
                noted=lambda: self._parts.settle_soon(),
            ),
            Processes(limit=settings.process_pool, recycle_after=settings.recycle_after, imports=settings.imports),
            home=InDatabase(database, self._written),
            dependencies=RunnersDependencies(database),
        )
        self._unknown = of_queues(
            after=settings.unknown_after, registry=self._registry, allow=settings.allow, source=source
        )
        self._executor = Executor(
            self._dispatch,
            self._registry,
            allow=settings.allow,
            middleware=Chain(middleware),
            source=source,
            unknown=self._unknown,
            counts=settings.metrics_every is not None,
        )

        # The queues, and what is done again and again beside them.
        counted = partial(setattr, database.availability, "queues")
        self._queues = Queues(self._producer, self.queues, within=limits_of(settings.queues), counted=counted)
        self._idle = Idle(database, self._queues)
        self._decisions = Decisions(
            database,
            self._queues,
            name=self.name,
            node=self.node,
            every=settings.heartbeat_every,
            young=self._written,
            declared=settings.queues,
        )
        self._parts = Beside(
            database,
            settings,
            source=source,
            registry=self._registry,
            connections=in_sessions,
            queues=self._queues,
            of_queues={
                "decisions": self._decisions,
                "poll": Poll(database, self._queues, every=settings.poll_every),
                "ranks": Ranks(database, self._queues, every=settings.heartbeat_every),
            },
            tally=self._executor.tally,
        )

        # What nodes tell each other.
        self._stacks = Stacks(database, self._stack, source=source)
        listeners: dict[str, Listener] = {
            "insert": self._inserted,
            "signal": Signals(self._queues, name=self.name, node=self.node).receive,
            messages.NODES: lambda said: self._stacks.receive(said) if "asked" in said else self._parts.hear(said),
            **self._parts.listeners,
        }
        self._notifier = Notifier(database, listeners, source=source, listen_url=settings.listen_url)
        self._heartbeat = Heartbeat(
            lambda: Database(engine, schema=self.schema, quiet=True),
            every=settings.heartbeat_every,
            rows=self._queues.rows,
            lost=self._queues.recount,
            young=self._young(),
        )

        self._reports = Reports(
            database,
            settings,
            source=source,
            notifier=self._notifier,
            parts=self._parts,
            queues=self._queues,
            idle_because=self._idle_because,
        )
        self.checks: Final = self._reports.checks
        """What `/live` and `/ready` report of this runner."""

        self._working = False
        self._stop_asked = asyncio.Event()
        self._taken = partial(taken, pool=database.pool, stopped=self._stop_asked, source=source)
        self._started_at: float | None = None
        self._unfollow: Callable[[], None] | None = None

    @property
    def health_address(self) -> tuple[str, int] | None:
        """Host and port that `/live` and `/ready` are served at, where a `health_port` was given."""
        return self._reports.address

    @property
    def counts(self) -> bool:
        """Whether it counts for Prometheus."""
        return self._settings.prometheus

    def metrics(self) -> Snapshot:
        """Return the figures of now, for `oban_sa.prometheus`; raises `InvalidOption` without `prometheus=True`."""
        return self._reports.metrics()

    async def start(self) -> None:
        """Check the tables and begin to work.

        Where the database goes away after it was reached, each step is tried again. Returns without having begun where
        the runner is asked to stop meanwhile.
        """
        if self._started_at is not None:
            raise RunnerError("a runner starts once; make another Runner")
        self._unfollow = log.follow_events_of_runners()
        await self._reports.serve()
        with suppress(StoppedEarly):
            await self._begin()

    async def _begin(self) -> None:
        within = limits_of(self._settings.queues)
        limits = [within.get(name) for name in self._settings.queues]
        connected = connect_all(self._database, self._notifier, self._queues, taken=self._taken, checked=self._checked)
        await asyncio.gather(connected, compiled(of_beginning(self._database, limits)))  # while the server connects
        self._started_at = clock.monotonic()
        await self._reports.watch()
        # Listen first: a decision made from now on is either read below or heard.
        await self._notifier.listens()
        # What was paused stays so: nothing is fetched before that is known.
        await self._taken(self._decisions.tick)
        # Before the first job, whose code may block the loop for longer than a silent node is taken to live.
        await self._heartbeat.start()
        await self._taken(self._queues.begin)
        # The first jobs do not wait until the statements of all parts are compiled.
        await self._queues.fetched()
        await self._parts.start()
        self._working = True
        telemetry.emit(telemetry.RunnerStart(runner=self._source, queues=dict(self.queues)))
        await compiled(of_completion(self._database, limits))

    async def _checked(self, has: Found) -> None:
        check(has, self.schema, limits=bool(limits_of(self._settings.queues)))
        sessions = self._sessions
        if sessions is not None and (engine := await sessions.check(self._registry, schema=self.schema)) is not None:
            await self._taken(lambda: check_same_database(engine, self._database))

    def stop(self) -> None:
        """Ask the runner to stop; returns at once, and may be called from a signal handler, and more than once."""
        self._stop_asked.set()

    async def wait_stopped(self) -> None:
        """Wait until `stop` is called."""
        await self._stop_asked.wait()

    async def until_idle(self, also: Iterable[str] = ()) -> None:
        """Wait until no job of the served queues is available, executing or due on any node, or until asked to stop.

        `also` names queues that others serve and that are to be idle as well.
        """
        others = tuple(also)
        await until(lambda: self.idle(others), stopped=self._stop_asked)

    async def run(self, *, until_idle: bool = False) -> None:
        """Start, work until asked to stop or, if so wished, until idle, and stop."""
        async with self:
            await (self.until_idle() if until_idle else self.wait_stopped())

    async def __aenter__(self) -> Self:
        if self._started_at is not None:
            raise RunnerError("a runner starts once; make another Runner")
        try:
            await self.start()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await self._close()

    async def _close(self) -> None:
        """Stop the parts in the reverse order of their start, each within a deadline."""
        self._queues.quiesce()
        running = sum(len(producer.running) for producer in self._queues.all)
        if self._started_at is not None:
            telemetry.emit(telemetry.RunnerStopping(runner=self._source, running=running, grace=self._settings.grace))
        await self._queues.attempts_ended(self._settings.grace)
        for producer in self._queues.all:
            producer.interrupt(Interrupted.SHUTDOWN)
        await self._queues.attempts_ended(UNWINDING)
        await self._notifier.stop()
        await self._stacks.close()
        # At the same time: where the database is silent, each waits for as long as it may.
        await asyncio.gather(self._parts.stop(), self._heartbeat.stop())
        await self._dispatch.close()
        given_back = await self._queues.close()
        await self._database.shared.close()
        await self._reports.close()
        if self._started_at is not None:
            duration = clock.monotonic() - self._started_at
            telemetry.emit(telemetry.RunnerStop(runner=self._source, duration=duration, given_back=given_back))
        if self._unfollow is not None:
            self._unfollow()

    async def idle(self, also: Iterable[str] = ()) -> bool:
        """Whether no job of the served queues is available, executing or due; not where that can't be found out."""
        return await self._idle.now(queue for queue in also if queue not in self.queues)

    def _producer(self, queue: str, limit: int, *, paused: bool, limits: Limits | None = None) -> Producer:
        return Producer(
            queue,
            limit,
            database=self._database,
            executor=self._executor,
            source=self._source,
            poll_every=self._settings.poll_every,
            dead_after=self._settings.dead_after,
            due_in=lambda seconds: self._parts.due_in(seconds),
            unknown=self._unknown(queue),
            paused=paused,
            young=self._written,
            limits=limits,
            noted=lambda: self._parts.settle_soon(),
        )

    def _young(self) -> Young | None:
        after, every = self._settings.keep_young_after, self._settings.heartbeat_every
        if after is None:
            return None
        return Young(self._written, after=after, every=every, holding=lambda: self._queues.all)

    def _stack(self, job_id: int) -> Callable[[], Awaitable[str]] | None:
        found = self._queues.find(job_id)
        return None if found is None else partial(self._dispatch.stack, *found)

    def _inserted(self, message: dict[str, object]) -> None:
        queue, news = messages.queue_of(message), messages.news_of(message)
        self._queues.hear(queue, news)
        if news.due or queue == messages.EVERY:  # a job is due in a moment, or what was said before was missed
            self._parts.stage_soon()

    def _idle_because(self) -> str | None:
        return "stopping" if self._stop_asked.is_set() else None if self._working else "starting"
