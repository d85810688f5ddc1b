"""One queue on one node: how many jobs it can take, taking them, and writing what became of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from oban_sa import backoff, clock, telemetry
from oban_sa.holders import new_producer
from oban_sa.runner.acker import BATCH, Acker, report_retry
from oban_sa.runner.attempts import Attempts
from oban_sa.runner.burst import Burst
from oban_sa.runner.database import Database, describe
from oban_sa.runner.disconnects import is_away, is_locked, is_passing
from oban_sa.runner.executor import Executor, Interrupted, Running
from oban_sa.runner.tables import Tables
from oban_sa.runner.ticker import rested
from oban_sa.runner.unknown import UnknownWorkers
from oban_sa.runner.waiting import cancelled
from oban_sa.runner.writer import ASIDE_EVERY, Writer
from oban_sa.runner.young import Written
from oban_sa.sql.fetching import BEGINNING
from oban_sa.sql.unknown import NOTED
from oban_sa.states import JobState

logger = logging.getLogger("oban_sa.runner")

RECLAIM_EVERY = 30.0
"""Seconds between looks for rows that this producer holds without knowing, which a lost answer leaves behind."""

PLANS_LAST = 1.0
"""Seconds that the plans of a producer's statements are kept: by then the table may be another."""

LAST_WORDS = 5.0
"""Seconds that a stopping producer spends on writing its outcomes to a database that is away."""


class Producer:
    """Keeps up to `limit` jobs of a queue running.

    One cycle is one statement: it writes the outcomes that have gathered and fetches as many jobs as there are free
    slots. Cycles never overlap, so what is gathered while one is under way goes into the next.
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
    ) -> None:
        """`due_in` is told after how many seconds a job is due again; `young` knows what is kept young."""
        self.queue = queue
        self.limit = limit
        self.paused = paused
        self.uuid: UUID = new_producer()
        self.started_at = clock.now()
        self.cycled_at: float | None = None
        """When a cycle last came to a good end, by this machine's monotonic clock."""
        self._wake = asyncio.Event()
        self.holder = self._holder = [source.node, str(self.uuid)]
        """What the rows of this producer's jobs have as `attempted_by`."""
        self._acker = Acker(source=source, queue=queue, young=young)
        self._tables = Tables(database, queue, self._holder, schema=source.schema, young=young)
        self._attempts = Attempts(
            queue,
            self._holder,
            executor=executor,
            acker=self._acker,
            source=source,
            ended=self._wake.set,
            wanted=self._tables.wanted,
        )
        self.under_way = self._attempts.under_way
        self.lose = self._attempts.lose
        self.unwritten = self._acker.verdicts
        """What became of attempts, where it is not written yet."""
        self.unknown = unknown
        unknown.changed = self._tell_row
        self._database = database
        self._source = source
        self._poll_every = poll_every
        self._dead_after = dead_after
        self._writer = Writer(queue, self._acker, self._tables, due_in=due_in)
        self._hungry = True
        self._burst = Burst()
        self._poll_at = 0.0
        self._planned_at = 0.0
        self._uncertain = False
        self._doubtful = False
        self._outdated = False
        self._reclaimed_at = clock.monotonic()
        self._begun = False
        self.registered = False
        """Whether this producer's row was written, and is to be kept alive."""
        self._present = False
        self._awake_at = 0.0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> dict[int, Running]:
        """The attempts under way, by the ids of their jobs."""
        return self._attempts.running

    async def start(self) -> None:
        """Register this producer, where that was not done yet, and begin to fetch."""
        if not self.registered:
            await self.register()
        if not self.started:
            self._task = asyncio.create_task(self._run(), name=f"oban_sa producer {self.queue}")

    @property
    def started(self) -> bool:
        """Whether it has begun to fetch."""
        return self._task is not None

    async def register(self) -> None:
        """Write this producer's row; jobs are fetched only under a row that says who holds them."""
        began, self._begun = self._begun, True
        fresh = await self._tables.register(self.row())
        self._present = self.registered = True
        self._awake_at = clock.monotonic()
        if began and fresh:
            self.recount()

    def row(self) -> dict[str, Any]:
        """What this producer's row says."""
        meta: dict[str, Any] = {
            "limit": self.limit,
            "local_limit": self.limit,
            "paused": self.paused,
            "running": self._attempts.begun(),
            # After so many seconds of silence the row may be taken for that of a dead node.
            "dead_after": self._dead_after,
        }
        if unknown := self.unknown.listed():
            meta[NOTED] = unknown
        return {
            "uuid": self.uuid,
            "name": self._source.name,
            "node": self._source.node,
            "queue": self.queue,
            "meta": json.dumps(meta),
        }

    def nudge(self) -> None:
        """Fetch as soon as possible: there may be jobs."""
        self._hungry = True
        self._wake.set()

    def idle(self) -> bool:
        """Whether nothing runs and nothing is left to write."""
        return not self.running and not len(self._acker) and not self._acker.aside

    def interrupt(self, why: Interrupted, ids: set[int] | None = None) -> int:
        """Interrupt the running attempts, or those of some jobs; returns how many."""
        return self._attempts.interrupt(why, ids)

    def pause(self) -> None:
        """Fetch no more jobs until resumed; those running go on."""
        self.paused = True
        self._tell_row()

    def resume(self) -> None:
        """Fetch jobs again."""
        self.paused = False
        self._hungry = True
        self._tell_row()

    def scale(self, limit: int) -> None:
        """Run up to `limit` jobs at once; where more are running, they end and are not replaced."""
        self.limit = limit
        self._hungry = True
        self._tell_row()

    def cancel(self, job_id: int, attempted_at: datetime | None = None) -> None:
        """Ask a job to stop if it runs here; with `attempted_at` if this very attempt does."""
        running = self.running.get(job_id)
        if running is None:
            self._attempts.miss(job_id)
        # Once only: code that cleans up after it was interrupted is not to be interrupted in that.
        elif attempted_at in (None, running.attempt.attempted_at) and running.interrupted is None:
            running.interrupt(Interrupted.CANCELLED)

    def recount(self) -> None:
        """Ask the tables which of the running jobs are still held: this producer was taken for dead."""
        self._doubtful = True
        self._wake.set()

    def quiesce(self) -> None:
        """Fetch no more; outcomes are still written."""
        self._attempts.refuse()

    async def stop(self) -> int:
        """Write what is left to write, give back what still runs, and forget this producer: how many were given back.

        Jobs whose code can't be stopped are given back too: this process is about to end.
        """
        self.quiesce()
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LAST_WORDS)
            await cancelled(self._task)
        self._attempts.give_back_all()
        try:
            async with asyncio.timeout(LAST_WORDS):
                if self._begun:
                    await self._last_words()
        except Exception as error:
            logger.warning(
                "queue %s could not write its last outcomes (%s); its jobs are rescued once this node counts as dead",
                self.queue,
                describe(error),
            )
        finally:
            await self._tables.close()
        return self._attempts.given_back

    async def _last_words(self) -> None:
        failures = 0
        while True:
            try:
                while len(self._acker) or self._acker.aside:
                    await self._writer.look_aside()
                    await (self._cycle() if len(self._acker) else asyncio.sleep(ASIDE_EVERY / 5))
                # Also what an answer lost on the way has left behind: others would rescue it much later, and count it.
                if await self._give_back_unheard():
                    continue
                if self._attempts.given_back:
                    await self._tables.announce()
                await self._tables.leave(self.uuid)
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
        while not self._stopping:
            self._wake.clear()
            try:
                await self._cycle()
            except Exception as error:
                self._hungry = True
                if (locked := is_locked(error)) and await self._writer.past_locks():
                    continue
                failures += 1
                rest = backoff.retrying(failures)
                report_retry(self._source, self.queue, error, failures=failures, retry_in=rest)
                # A lock keeps this node from writing its row, and everybody else from taking it away.
                self._present = self._present and locked
                self._attempts.begin()
                await self._rest_despite_wakes(rest)
                continue
            failures = 0
            self.cycled_at = clock.monotonic()
            self._awake_at = clock.monotonic()
            if not self._busy():
                await self._attempts.begin_staggered()
            if not self._busy():
                await rested(self._wake, min(self._poll_at, self._writer.look_at) - clock.monotonic())

    async def _rest_despite_wakes(self, seconds: float) -> None:
        # Jobs that end meanwhile wake the producer, and must not make it hammer a database that is away.
        deadline = clock.monotonic() + seconds
        while not self._stopping and (rest := deadline - clock.monotonic()) > 0:
            self._wake.clear()
            await rested(self._wake, rest)

    def _tell_row(self) -> None:
        self._outdated = True
        self._wake.set()

    def _busy(self) -> bool:
        return len(self._acker) > 0 or self._outdated or (self._hungry and self._demand() > 0)

    def _demand(self) -> int:
        if self.paused or self._attempts.refusing:
            return 0
        return max(min(self.limit - self._attempts.count, BATCH), 0)

    async def _cycle(self) -> None:
        if not self._stopping and not self._surely_present():
            await self.register()
        reclaimed = 0
        if self._uncertain or clock.monotonic() - self._reclaimed_at > RECLAIM_EVERY:
            reclaimed = await self._give_back_unheard()
        if clock.monotonic() >= self._writer.look_at:
            await self._writer.look_aside()
        if self._acker.refused:
            await self._writer.look_again()
        if self._doubtful:
            await self._let_go_of_lost()
        if self._outdated:
            await self._write_row()
        now = clock.monotonic()
        if now >= self.unknown.review_at:
            await self._review()
        polls = now >= self._poll_at
        if polls:
            self._hungry = True
            self._poll_at = now + self._poll_every
        # While no job waits, if possible: when this is only a look, or an outcome that is to be written.
        if now - self._planned_at > (PLANS_LAST if polls or not self._hungry else 3 * PLANS_LAST):
            self._planned_at = now
            await self._tables.plan_anew()
        demand = self._demand()
        outcomes = self._acker.take()
        if not outcomes and not (demand and self._hungry):
            return
        if demand:
            # Before the fetch and not after it: a job announced while it is under way asks for another.
            self._hungry = False
        started = clock.monotonic()
        place = self._burst.place(started) if demand else BEGINNING
        # Once the statement is on its way: reading rows and doing jobs is what there is to do meanwhile.
        self._attempts.begin_soon()
        try:
            unknown = self.unknown.condition() if demand else None
            acked, fetched = await self._tables.exchange(outcomes, demand, place, unknown)
        except Exception as error:
            self._acker.failed(perhaps_written=is_away(error))
            # It may have been committed, and what it fetched be nobody's; but not where the server gave up at a lock.
            self._uncertain = self._uncertain or (demand > 0 and not is_locked(error))
            self._hungry = self._hungry or demand > 0
            if outcomes and not is_passing(error):
                await self._writer.one_by_one(error)
                return
            raise
        except BaseException:
            self._acker.failed(perhaps_written=True)
            self._uncertain = True
            raise
        elapsed = clock.monotonic() - started
        if outcomes:
            self._acker.written(acked, duration=elapsed)
            self._writer.expect(outcomes)
            # What this statement has made available, only the next one sees.
            self._hungry = self._hungry or reclaimed > 0
            if self.unknown.gave_back and any(each.verdict.state is JobState.AVAILABLE for each in outcomes):
                self.unknown.gave_back = False
                await self._tables.announce()
        if demand:
            # After a look from elsewhere another one from the beginning is due before there counts as nothing left.
            self._hungry = self._hungry or len(fetched) >= demand or place is not BEGINNING
            self._burst.looked(place, fetched, demand, duration=elapsed)
            self._poll_at = clock.monotonic() + self._poll_every
            self._attempts.add(fetched)
            if telemetry.listening(telemetry.ProducerFetch):
                telemetry.emit(
                    telemetry.ProducerFetch(
                        runner=self._source, queue=self.queue, demand=demand, count=len(fetched), duration=elapsed
                    )
                )

    async def _review(self) -> None:
        """Find out whether this program, or another one on this queue, knows by now what was unknown."""
        self.unknown.look_again()
        now, others = await self._tables.reviewed()
        self.unknown.reviewed(now, others)
        self._hungry = True

    def _surely_present(self) -> bool:
        """Whether nobody can have taken this node for dead by now.

        After an outage, or when the process stood still, jobs must not be fetched under a row that is gone: were the
        node to die before it beats again, nobody would ever look for them.
        """
        return self._present and clock.monotonic() - self._awake_at < self._dead_after / 2

    async def _give_back_unheard(self) -> int:
        """Give back what was fetched without hearing so: how many jobs; their outcomes are still to be written."""
        rows = await self._tables.unheard(known=[*self.running, *self._acker.ids()])
        self._uncertain = False
        self._reclaimed_at = clock.monotonic()
        if rows:
            self._attempts.give_back_unheard(rows)
            logger.warning("queue %s gave back %d jobs that it had fetched without hearing so", self.queue, len(rows))
        return len(rows)

    async def _write_row(self) -> None:
        self._outdated = False
        try:
            await self.register()
        except BaseException:
            self._outdated = True
            raise

    async def _let_go_of_lost(self) -> None:
        mine = list(self.running.items())
        held = await self._tables.held([job_id for job_id, _ in mine])
        self._doubtful = False
        telemetry.emit(telemetry.ProducerLost(runner=self._source, queue=self.queue))
        gone = [each for job_id, each in mine if (job_id, each.attempt.attempted_at) not in held]
        for each in gone:
            self.lose(each)
        logger.warning(
            "queue %s was taken for dead while it lived and registers again; %d of its %d jobs were given to others",
            self.queue,
            len(gone),
            len(mine),
        )
