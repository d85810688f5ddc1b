"""One queue on one node: how many jobs it can take, what it is told to do, how it begins and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.verdicts import Attempt, Verdict
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_locked, is_passing
from oban_sa.runner.execution.attempt import Interrupted, Running
from oban_sa.runner.execution.executor import Executor
from oban_sa.runner.execution.unknown_workers import UnknownWorkers
from oban_sa.runner.queue.acker import BATCH, Acker, report_retry
from oban_sa.runner.queue.attempts import Attempts
from oban_sa.runner.queue.cycle import Cycle
from oban_sa.runner.queue.election import Election, Rank
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.registration import Registration
from oban_sa.runner.queue.states import State
from oban_sa.runner.queue.writer import ASIDE_EVERY, Writer
from oban_sa.schedule import clock
from oban_sa.sql.producers import LIMITS
from oban_sa.sql.unknown_workers import NOTED
from oban_sa.wire.messages import News

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits
    from oban_sa.runner.queue.limits import Limited

logger = logging.getLogger("oban_sa.runner")

LAST_WORDS = 5.0
"""Seconds that a stopping producer spends on writing its outcomes to a database that is away."""


class Producer:
    """Keeps up to `limit` jobs of a queue running, unless it is paused.

    Its task does one cycle after another (`cycle`): each writes outcomes and fetches jobs. The jobs run in tasks of
    their own (`attempts`). The module `states` draws its life, and that of its row.
    """

    def __init__(
        self,
        queue: str,
        limit: int,
        *,
        database: Database,
        executor: Executor,
        source: telemetry.Source,
        poll_every: float,
        dead_after: float,
        due_in: Callable[[float], None],
        unknown: UnknownWorkers,
        paused: bool = False,
        young: Written | None = None,
        limits: Limits | None = None,
        noted: Callable[[], object] = lambda: None,
    ) -> None:
        """`due_in` is told after how many seconds a job is due again; `young` knows what is kept young.

        `noted` is called once ends of members of flows were noted.
        """
        self.queue = queue
        self.limit = limit
        self.paused = paused
        self.uuid: UUID = new_producer()
        self.holder = [source.node, str(self.uuid)]
        """What the rows of this producer's jobs have as `attempted_by`."""
        self.started_at = clock.now()
        self.cycled_at: float | None = None
        """When the last cycle succeeded, by this machine's monotonic clock."""
        self.fetched = asyncio.Event()
        """Set once a cycle has succeeded."""
        self.state = State.NEW
        self.unknown = unknown
        unknown.changed = self._tell_row
        self._source = source
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._tables = tables = Tables(database, queue, self.holder, schema=source.schema, young=young, noted=noted)
        self._acker = acker = Acker(source=source, queue=queue, young=young, due_in=due_in)
        self._writer = Writer(queue, acker, tables)
        self._attempts = attempts = Attempts(
            queue,
            self.holder,
            executor=executor,
            acker=acker,
            source=source,
            ended=self._ended,
            wanted=tables.wanted,
            tables=tables,
        )
        self.registration = Registration(
            self.uuid,
            queue=queue,
            tables=tables,
            attempts=attempts,
            source=source,
            dead_after=dead_after,
            settings=self._settings,
        )
        self._cycle = Cycle(
            queue,
            tables=tables,
            acker=acker,
            writer=self._writer,
            attempts=attempts,
            registration=self.registration,
            unknown=unknown,
            source=source,
            poll_every=poll_every,
            demand=self.demand,
        )
        self._limited: Limited | None = None
        self.limit_to(limits)
        self._election = Election(
            fetch=self.nudge,
            emptied_at=lambda: self._cycle.emptied_at,
            is_fetching=lambda: self._cycle.fetching or (self._cycle.hungry and self.has_room),
            leaves_some=lambda: (self._cycle.hungry and not self.has_room) or bool(self.unknown.entries),
            call_all=self._call_all,
        )

    # What others ask

    @property
    def running(self) -> dict[int, Running]:
        """The attempts under way, by the ids of their jobs."""
        return self._attempts.running

    def under_way(self) -> list[Attempt]:
        """The attempts whose jobs were begun; may be called from any thread."""
        return self._attempts.under_way()

    def unwritten(self) -> list[Attempt | Verdict]:
        """The attempts under way, and the verdicts on those whose outcome is not written yet."""
        return [*self._attempts.under_way(), *self._acker.verdicts()]

    def idle(self) -> bool:
        """Whether nothing runs and nothing is left to write."""
        ended = not self.running and not len(self._acker) and not self._acker.aside
        return ended and not self._attempts.turns.ended

    def demand(self) -> int:
        """How many jobs can be taken."""
        return 0 if self._limited is not None and self._limited.spent else self._free()

    def _free(self) -> int:
        if self.paused or not self.state.fetches:
            return 0
        return max(min(self.limit - self._attempts.count, BATCH), 0)

    @property
    def has_room(self) -> bool:
        """Whether it would take a job, were there one."""
        return self.demand() > 0

    # What others order; none of this waits

    def nudge(self) -> None:
        """Fetch as soon as possible: there may be jobs."""
        self._cycle.hungry = True
        self._wake.set()

    def hear(self, news: News) -> None:
        """Do what a message on `insert` asks of this node."""
        self._election.hear(news)

    def ranked(self, rank: Rank | None) -> None:
        """Take note of this node's rank among those that work on the queue; None where it has none."""
        self._election.ranked(rank)

    def _ended(self) -> None:
        if self._limited is not None and self._limited.frees:
            # Its slot is free, also where its outcome was committed by its session, and jobs may wait for it. A node
            # that takes no more, as it is paused, or runs fewer at once by now, tells others, which were full.
            if self._free():
                self._cycle.hungry = True
            else:
                self._cycle.calls_all = True
        self._wake.set()

    def _call_all(self) -> None:
        self._cycle.calls_all = True
        self._wake.set()

    def looked(self, sent_at: float, *, waits: bool, size: int) -> None:
        """Take note of a look at all queues, sent at a moment of the monotonic clock; see `oban_sa.sql.look`."""
        self.registration.seen(sent_at)
        self._cycle.looked(waits=waits, size=size)
        self._wake.set()

    def pause(self) -> None:
        """Fetch no more jobs until resumed; those running go on."""
        self.paused = True
        self._tell_row()

    def resume(self) -> None:
        """Fetch jobs again."""
        self.paused = False
        self._cycle.hungry = True
        self._tell_row()

    def scale(self, limit: int) -> None:
        """Run up to `limit` jobs at once; where more are running, they end and are not replaced."""
        self.limit = limit
        self._cycle.hungry = True
        self._tell_row()

    @property
    def limits(self) -> Limits | None:
        """What its fetches observe beside `limit`, all nodes together."""
        return None if self._limited is None else self._limited.limits

    @property
    def partitioned(self) -> bool:
        """Whether it fetches by partition, so that a job without a key is not found."""
        return self._limited is not None and self._limited.limits.by is not None

    def limit_to(self, limits: Limits | None) -> None:
        """Fetch within these limits from now on; jobs that are running go on, and count."""
        if limits == self.limits:
            return
        if self._limited is not None:
            self._limited.end()
        if limits is None:
            self._limited = None
        else:
            # Where no queue has limits, nothing of them is loaded.
            from oban_sa.runner.queue.limits import Limited

            self._limited = Limited(limits, self.queue, self._source)
        self._tables.limit(self._limited)
        self._cycle.limited = self._limited
        self._cycle.hungry = True
        self._tell_row()

    def cancel(self, job_id: int, attempted_at: datetime | None = None) -> None:
        """Ask a job to stop if it runs here; with `attempted_at` if this very attempt does."""
        running = self.running.get(job_id)
        if running is None:
            self._attempts.miss(job_id)
        # Once only: code that cleans up after it was interrupted is not to be interrupted in that.
        elif attempted_at in (None, running.attempt.attempted_at) and running.interrupted is None:
            running.interrupt(Interrupted.CANCELLED)

    def interrupt(self, why: Interrupted) -> None:
        """Interrupt the running attempts."""
        self._attempts.interrupt(why)

    def lose(self, running: Running) -> bool:
        """Interrupt an attempt whose job is another's by now; False where it was not running or interrupted before."""
        return self._attempts.lose(running)

    def recount(self) -> None:
        """Ask the tables which of the running jobs are still held: the row was gone, and is written again."""
        self.registration.lost()
        self._wake.set()

    def _tell_row(self) -> None:
        self.registration.outdated = True
        self._wake.set()

    def _settings(self) -> dict[str, object]:
        """What the row says of this producer; called in the heartbeat's thread as well."""
        settings: dict[str, object] = {"limit": self.limit, "local_limit": self.limit, "paused": self.paused}
        if unknown := self.unknown.listed():
            settings[NOTED] = unknown
        if (limited := self._limited) is not None:
            settings[LIMITS] = limited.limits.as_json()
        return settings

    # Its life

    async def connect(self) -> None:
        """Open the connection, before the first statement wants it."""
        await self._tables.connect()

    async def start(self) -> None:
        """Write the row, where that was not done yet, and begin to fetch; nothing where it began before."""
        if self.state is State.NEW and not self.registration.row.kept:
            await self.registration.write()
        if self.state is State.NEW:  # still: it may have been told to stop meanwhile
            self.state = self.state.begin()
            self._task = asyncio.create_task(self._run(), name=f"oban_sa producer {self.queue}")

    def quiesce(self) -> None:
        """Fetch no more; outcomes are still written."""
        self.state = self.state.quiesce()
        self._attempts.refuse()

    async def stop(self) -> int:
        """Write what is left to write, give back what still runs, and remove the row: how many were given back.

        Jobs whose code can't be stopped are given back too: this process is about to end.
        """
        if self.state is State.STOPPED:
            return self._attempts.given_back
        self.quiesce()
        self._election.close()
        self.state = self.state.stop()
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_WORDS)
            await cancelled(self._task)
        self._attempts.give_back_all()
        try:
            async with asyncio.timeout(LAST_WORDS):
                if self.registration.row.perhaps_there:
                    await self._last_words()
        except Exception as error:
            logger.warning(
                "queue %s could not write its last outcomes (%s); its jobs are rescued once this node counts as dead",
                self.queue,
                describe(error),
            )
        finally:
            await self._tables.close()
        self.state = self.state.end()
        return self._attempts.given_back

    async def _last_words(self) -> None:
        failures = 0
        while True:
            try:
                while len(self._acker) or self._acker.aside:
                    await self._writer.look_aside()
                    await (self._cycle.write() if len(self._acker) else asyncio.sleep(ASIDE_EVERY / 5))
                # Also what an answer lost on the way has left behind: others would rescue it much later, and count it.
                if await self._cycle.give_back_unheard():
                    continue
                if self._attempts.given_back:
                    await self._tables.announce()
                await self.registration.leave()
                return
            except Exception as error:
                failures += 1
                if not is_passing(error):
                    raise
                if is_locked(error):
                    await self._writer.past_locks()
                await asyncio.sleep(backoff.retrying(failures))

    async def _run(self) -> None:
        failures = 0
        while self.state.cycles:
            self._wake.clear()
            began_at = clock.monotonic()
            try:
                asked = await self._cycle.run()
            except Exception as error:
                self._cycle.hungry = True
                if (locked := is_locked(error)) and await self._writer.past_locks():
                    continue
                failures += 1
                rest = backoff.retrying(failures)
                report_retry(self._source, self.queue, error, failures=failures, retry_in=rest)
                # A lock on the row keeps this node from writing it, and all others from removing it.
                if not locked:
                    self.registration.doubt()
                self._attempts.begin()
                await self._rest_despite_wakes(rest)
                continue
            failures = 0
            self.cycled_at = clock.monotonic()
            self.fetched.set()
            if asked and began_at - self.registration.seen_at >= self.registration.renew_after:
                self.registration.seen(began_at)
            if not self._cycle.is_due:
                await self._attempts.begin_staggered()
            if not self._cycle.is_due:
                await self._rest(self._cycle.next_at - clock.monotonic())

    async def _rest_despite_wakes(self, seconds: float) -> None:
        # Jobs that end meanwhile wake the producer, and must not make it hammer a database that is away.
        deadline = clock.monotonic() + seconds
        while self.state.cycles and (rest := deadline - clock.monotonic()) > 0:
            self._wake.clear()
            await self._rest(rest)

    async def _rest(self, seconds: float) -> None:
        """Wait to be woken, for so many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
