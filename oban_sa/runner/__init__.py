"""`Runner`: takes jobs from the tables and does them; this is the only place that puts its parts together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import clock, messages, telemetry
from oban_sa.client.verifying import verify
from oban_sa.cronentry import CronEntry
from oban_sa.errors import RunnerError
from oban_sa.periods import Period
from oban_sa.readings import check_death
from oban_sa.retention import Prune
from oban_sa.runner import options
from oban_sa.runner.blockers import Blockers
from oban_sa.runner.checks import Checks
from oban_sa.runner.command import logs
from oban_sa.runner.command.lines import in_line
from oban_sa.runner.database import Database
from oban_sa.runner.decisions import Decisions
from oban_sa.runner.dispatch import Dispatch
from oban_sa.runner.executor import Executor, Interrupted
from oban_sa.runner.health import Health
from oban_sa.runner.heartbeat import Heartbeat
from oban_sa.runner.idle_transactions import IdleTransactions
from oban_sa.runner.inquiry import Inquiry
from oban_sa.runner.leader import Leader
from oban_sa.runner.lending import Lender
from oban_sa.runner.lifeline import Lifeline
from oban_sa.runner.makers import ApplicationMaker, Sessions, maker
from oban_sa.runner.metrics import Metrics
from oban_sa.runner.namesakes import Namesakes
from oban_sa.runner.notifier import Listener, Notifier
from oban_sa.runner.options import checked, or_none
from oban_sa.runner.part import Part
from oban_sa.runner.processes import Processes
from oban_sa.runner.producer import Producer
from oban_sa.runner.pruner import Pruner
from oban_sa.runner.queues import Queues
from oban_sa.runner.sameness import check_same_database
from oban_sa.runner.scheduler import Scheduler
from oban_sa.runner.sessions import AttemptSessions
from oban_sa.runner.signals import Signals
from oban_sa.runner.stacks import ASKED, Stacks
from oban_sa.runner.stager import Stager
from oban_sa.runner.starting import StoppedEarly, taken
from oban_sa.runner.ticker import Ticker
from oban_sa.runner.unknown import of_queues, parameters
from oban_sa.runner.waiting import until
from oban_sa.runner.watch import Watch
from oban_sa.runner.young import Written, Young
from oban_sa.settings import default_node
from oban_sa.sql.rescuing import THEIRS_DEAD_AFTER
from oban_sa.sql.rights import runner_needs, wanting
from oban_sa.sql.staging import unfinished
from oban_sa.sql.unknown import known
from oban_sa.workers.middleware import Chain, Middleware
from oban_sa.workers.registry import Registry

logger = logging.getLogger("oban_sa.runner")
logger.addFilter(in_line)

PRUNE = Prune()
"""What is deleted unless told otherwise."""

LEASE = 20.0
"""Seconds that leadership lasts unless renewed; shorter than it takes a dead node to count as dead, so that by then
another leads."""

BEATS_AGAIN = 1.4
"""Intervals of the heartbeat within which every node that lives has beaten after the database came back."""

STAGE_WITHIN = 0.02
"""Seconds in which the stager looks again after news of jobs, however much news there is."""

UNWINDING = 1.0
"""Seconds that code has to end after it was interrupted at shutdown."""


class Runner:
    """Does jobs, until it is stopped.

        async with Runner(engine, queues={"default": 10, "mailers": 5}) as runner:
            ...

    `engine` is an `AsyncEngine` on asyncpg; the runner opens connections of its own beside the engine's pool: one per
    queue and five more. `queues` holds how many jobs of each run at once. `allow` names modules and packages that
    may be imported when a job names a worker that isn't registered yet; nothing else ever is. Spans of time are
    seconds, timedeltas or texts like "5 minutes". Leaving the block stops gracefully: running jobs get `grace`, and
    those cut short are given back without spending an attempt.

    A node that is silent for `dead_after` is dead, and its jobs are given to others. `abandoned_after` also gives back
    what nodes of other members of the family began that long ago and left behind; it is off by default, and needs them
    to be dead by all that is known of them. Beside such nodes no job of this one looks older than `keep_young_after`,
    since they take one that began long ago for lost; None lets it.
    Jobs of a worker that this program does not know, or with args of a later version than it reads, spend no attempt
    here and are left to programs that know them; one that no program knew for `unknown_after` fails, and with None
    never. `prune` says which jobs that are over are deleted while this node leads, or after what age; None keeps all.
    `middleware` stands around every attempt, outermost first. With a `health_port` `/live` and `/ready` are served on
    `health_host`. Code that blocks the event loop for `blocked_after` is named in the log; None looks away.
    `metrics` tells Oban Web what this node does.

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
        queues: Mapping[str, int] | None = None,
        schema: str = "public",
        name: str = "Oban",
        node: str | None = None,
        grace: Period = 15,
        heartbeat_every: Period = 5,
        dead_after: Period = 30,
        poll_every: Period = 1,
        stage_every: Period = 1,
        allow: Iterable[str] = (),
        abandoned_after: Period | None = None,
        keep_young_after: Period | None = 60,
        metrics: bool = False,
        crontab: Iterable[CronEntry] = (),
        listen_url: str | None = None,
        prune: Prune | Period | None = PRUNE,
        middleware: Iterable[Middleware] = (),
        health_port: int | None = None,
        health_host: str = "127.0.0.1",
        blocked_after: Period | None = 1,
        sessions: Sessions | None = None,
        connections: int | None = None,
        idle_in_transaction_after: Period | None = 30,
        translate: Iterable[str | None] = (),
        process_pool: int | None = None,
        recycle_after: int | None = None,
        imports: Iterable[str] = (),
        registry: Registry | None = None,
        unknown_after: Period | None = 3600,
    ) -> None:
        self._engine = engine
        self.name = name = checked("name", name)
        self.node = default_node() if node is None else checked("node", node)
        self.schema = schema = checked("schema", schema)
        self.queues: dict[str, int] = checked("queues", {"default": 10} if queues is None else queues)
        self._grace: float = checked("grace", grace)
        self._heartbeat_every: float = checked("heartbeat_every", heartbeat_every)
        self._dead_after: float = checked("dead_after", dead_after)
        check_death(self._heartbeat_every, self._dead_after)
        poll: float = checked("poll_every", poll_every)
        self._stage_every: float = checked("stage_every", stage_every)
        allowed: tuple[str, ...] = checked("allow", allow)
        self._source = telemetry.Source(node=self.node, name=name, schema=schema)
        self._database = Database(engine, schema=schema)
        self._line = self._database.house
        self._unfinished = self._database.prepare(unfinished, known())
        self._maker = maker(sessions, engine)
        self._registry = registry = options.registry(registry)
        lender = Lender(
            schema=schema, translate=checked("translate", translate), connections=or_none("connections", connections)
        )
        processes = Processes(
            limit=or_none("process_pool", process_pool),
            recycle_after=or_none("recycle_after", recycle_after),
            imports=checked("imports", imports),
        )
        written = Written()
        inquiry = Inquiry(self._database, written)
        self._dispatch = Dispatch(AttemptSessions(self._maker, lender, inquiry, written), processes)
        unknown = of_queues(
            after=or_none("unknown_after", unknown_after), registry=registry, allow=allowed, source=self._source
        )
        executor = Executor(
            self._dispatch,
            registry,
            allow=allowed,
            middleware=Chain(middleware),
            source=self._source,
            unknown=unknown,
        )

        def producer(queue: str, limit: int, *, paused: bool) -> Producer:
            return Producer(
                queue,
                limit,
                database=self._database,
                executor=executor,
                source=self._source,
                poll_every=poll,
                dead_after=self._dead_after,
                due_in=self._due_in,
                unknown=unknown(queue),
                paused=paused,
                young=written,
            )

        self._queues = Queues(producer, self.queues, counted=partial(setattr, self._database, "queues"))
        self._decisions = Decisions(
            self._database, self._queues, name=name, node=self.node, every=self._heartbeat_every, young=written
        )
        signals = Signals(self._queues, name=name, node=self.node)
        leader = Leader(self._database, source=self._source, lasts=min(LEASE, self._dead_after * 2 / 3))
        scheduler = Scheduler(
            self._database, checked("crontab", crontab), source=self._source, registry=registry, allow=allowed
        )
        parts: dict[str, Part] = {
            "stager": Stager(self._database, source=self._source, every=self._stage_every, staged=self._queues.nudge),
            "leader": leader,
            "lifeline": Lifeline(
                self._database,
                leader,
                source=self._source,
                every=min(self._heartbeat_every, 2.0),
                dead_after=self._dead_after,
                patience=BEATS_AGAIN * self._heartbeat_every,
                abandoned_after=or_none("abandoned_after", abandoned_after),
                abandoned_patience=THEIRS_DEAD_AFTER,
            ),
            "scheduler": scheduler,
            "blockers": Blockers(self._database, source=self._source),
            "decisions": self._decisions,
        }
        parts["namesakes"] = namesakes = Namesakes(
            self._database,
            source=self._source,
            mine=lambda: [producer.uuid for producer in self._queues.all],
            every=2 * self._heartbeat_every,
        )
        if idle_in_transaction_after is not None:
            after: float = checked("idle_in_transaction_after", idle_in_transaction_after)
            parts["idle"] = IdleTransactions(self._database, lender, after=after, source=self._source)
        listeners: dict[str, Listener] = {
            "insert": self._inserted,
            "signal": signals.receive,
            "leader": self._resigned,
        }
        if checked("metrics", metrics):
            parts["metrics"] = told = Metrics(
                self._database,
                source=self._source,
                queues=lambda: list(self._queues.all),
                leading=lambda: leader.leading,
                crontab=scheduler.told(),
            )
            listeners["metrics"] = told.hear
        if (pruning := or_none("prune", prune)) is not None:
            parts["pruner"] = Pruner(self._database, leader, pruning, engine=engine, source=self._source)
        tickers = {name: Ticker(name, part, source=self._source) for name, part in parts.items()}
        self._tickers = list(tickers.values())
        self._stager, self._leader = tickers["stager"], tickers["leader"]
        # Not each when its own pause is over: what was decided meanwhile, such as a pause, is obeyed from now on.
        self._database.heard_again = [ticker.nudge for ticker in self._tickers]
        self._stacks = Stacks(self._database, self._stack, source=self._source)
        self._notifier = Notifier(
            self._database,
            {**listeners, ASKED: self._stacks.receive},
            source=self._source,
            listen_url=or_none("listen_url", listen_url),
        )
        young: Young | None = None
        if (young_after := or_none("keep_young_after", keep_young_after)) is not None:
            young = Young(written, after=young_after, every=self._heartbeat_every, holding=lambda: self._queues.all)
        self._heartbeat = Heartbeat(
            lambda: Database(engine, schema=schema, quiet=True),
            every=self._heartbeat_every,
            rows=lambda: [producer.row() for producer in self._queues.all if producer.registered],
            lost=self._queues.recount,
            young=young,
        )
        self._watch: Watch | None = None
        if (still := or_none("blocked_after", blocked_after)) is not None:
            self._watch = Watch(after=still, source=self._source, concerns=self._queues.hold)
        self._checks = Checks(
            self._database,
            notifier=self._notifier,
            producers=lambda: self._queues.serving.values(),
            parts=[tickers[name] for name in ("stager", "leader", "lifeline", "scheduler", "decisions")],
            needs=wanting(schema, runner_needs(crontab=bool(scheduler.entries), prune=pruning is not None)),
            watch=self._watch,
            poll_every=poll,
            idle_because=self._idle_because,
            namesake=lambda: namesakes.queues,
        )
        self._health: Health | None = None
        host: str = checked("health_host", health_host)
        if health_port is not None:
            reports = {"/live": self._checks.live, "/ready": self._checks.ready}
            self._health = Health(reports, host=host, port=health_port)
        self._working = False
        self._stop_asked = asyncio.Event()
        self._taken = partial(taken, pool=engine.pool, stopped=self._stop_asked, source=self._source)
        self._started_at: float | None = None
        self._unfollow: Callable[[], None] | None = None

    @property
    def checks(self) -> Checks:
        """What `/live` and `/ready` report of this runner."""
        return self._checks

    @property
    def engine(self) -> AsyncEngine:
        """The engine that leads to the tables."""
        return self._engine

    @property
    def health_address(self) -> tuple[str, int] | None:
        """Host and port that `/live` and `/ready` are served at, where a `health_port` was given."""
        return None if self._health is None else self._health.address

    async def start(self) -> None:
        """Check the tables and begin to work.

        Where the database goes away after it was reached, each step is tried again. Returns without having begun where
        the runner is asked to stop meanwhile.
        """
        if self._started_at is not None:
            raise RunnerError("a runner starts once; make another Runner")
        self._unfollow = logs.follow_events_of_runners()
        if self._health is not None:
            await self._health.start()
        with suppress(StoppedEarly):
            await self._begin()

    async def _begin(self) -> None:
        await self._taken(lambda: verify(self._engine, self.schema))
        if isinstance(self._maker, ApplicationMaker):
            engine = await self._maker.check(self._registry, schema=self.schema)
            if engine is not None:
                await self._taken(lambda: check_same_database(engine, self._database))
        self._started_at = clock.monotonic()
        if self._watch is not None:
            await self._watch.start()
        # Listening comes first, so that whatever is decided from now on is either read or heard.
        await self._notifier.start()
        # What was paused stays so: nothing is fetched before that is known.
        await self._taken(self._decisions.tick)
        # Before the first job, whose code may block the loop for longer than a silent node is taken to live.
        await self._heartbeat.start()
        await self._taken(self._queues.begin)
        for ticker in self._tickers:
            await ticker.start()
        self._working = True
        telemetry.emit(telemetry.RunnerStart(runner=self._source, queues=dict(self.queues)))

    def stop(self) -> None:
        """Ask the runner to stop; returns at once, and may be called from a signal handler, and more than once."""
        self._stop_asked.set()

    async def wait_stopped(self) -> None:
        """Wait until somebody asks the runner to stop."""
        await self._stop_asked.wait()

    async def until_idle(self, also: Iterable[str] = ()) -> None:
        """Wait until no job of the served queues is available, executing or due on any node, or until asked to stop.

        `also` names queues that others serve and that are to be idle as well.
        """
        others = frozenset(also) - self.queues.keys()
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        await self._close()

    async def _close(self) -> None:
        """Stop the parts in the reverse order of their start, each within a deadline."""
        self._queues.quiesce()
        running = sum(len(producer.running) for producer in self._queues.all)
        if self._started_at is not None:
            telemetry.emit(telemetry.RunnerStopping(runner=self._source, running=running, grace=self._grace))
        await self._queues.attempts_ended(self._grace)
        for producer in self._queues.all:
            producer.interrupt(Interrupted.SHUTDOWN)
        await self._queues.attempts_ended(UNWINDING)
        await self._notifier.stop()
        await self._stacks.close()
        # At the same time: where the database is silent, each waits for as long as it may.
        await asyncio.gather(*(ticker.stop() for ticker in reversed(self._tickers)), self._heartbeat.stop())
        await self._dispatch.close()
        given_back = await self._queues.close()
        await self._line.close()
        if self._watch is not None:
            await self._watch.stop()
        if self._health is not None:
            await self._health.stop()
        await self._checks.close()
        if self._started_at is not None:
            duration = clock.monotonic() - self._started_at
            telemetry.emit(telemetry.RunnerStop(runner=self._source, duration=duration, given_back=given_back))
        if self._unfollow is not None:
            self._unfollow()

    async def idle(self, also: Iterable[str] = ()) -> bool:
        """Whether no job of the served queues is available, executing or due; not where that can't be found out."""
        if not all(producer.idle() for producer in self._queues.all):
            return False
        queues = [queue for queue, producer in self._queues.serving.items() if not producer.paused]
        queues += [queue for queue in also if queue not in self.queues]
        try:
            # Jobs that this program does not know may wait for days for one that does.
            unknown = parameters(name for producer in self._queues.all for name in producer.unknown.names())
            row = (await self._line.fetch(self._unfinished, queues=queues, **unknown))[0]
        except Exception:
            logger.debug("could not ask whether there is more to do", exc_info=True)
            return False
        return not any(row.values())

    def _stack(self, job_id: int) -> Callable[[], Awaitable[str]] | None:
        found = self._queues.find(job_id)
        return None if found is None else partial(self._dispatch.stack, *found)

    def _inserted(self, message: dict[str, Any]) -> None:
        self._queues.nudge(messages.queue_of(message))
        # It may have been about a job that is due in a moment, sooner than the stager would look again.
        self._stager.nudge_within(STAGE_WITHIN)

    def _resigned(self, _message: dict[str, Any]) -> None:
        self._leader.nudge()

    def _due_in(self, after: float) -> None:
        # What is due later, the stager sees for itself the next time it looks.
        if after < self._stage_every:
            self._stager.nudge_within(STAGE_WITHIN)

    def _idle_because(self) -> str | None:
        if self._stop_asked.is_set():
            return "stopping"
        return None if self._working else "starting"


__all__ = ["Runner", "verify"]
