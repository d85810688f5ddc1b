"""One cycle of a producer: one statement that writes outcomes and fetches jobs, and what is due beside it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import asyncpg

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.runner.database.errors import is_away, is_locked, is_passing
from oban_sa.runner.execution.unknown_workers import UnknownWorkers
from oban_sa.runner.queue.acker import Acker
from oban_sa.runner.queue.attempts import Attempts
from oban_sa.runner.queue.cursor import Cursor
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.registration import Registration
from oban_sa.runner.queue.states import Row
from oban_sa.runner.queue.writer import Writer
from oban_sa.schedule import clock
from oban_sa.sql.fetch import BEGINNING, Position
from oban_sa.telemetry.handlers import listeners

if TYPE_CHECKING:
    from oban_sa.runner.queue.limits import Limited

logger = logging.getLogger("oban_sa.runner")

RECLAIM_EVERY = 30.0
"""Seconds between looks for rows that a producer holds without knowing, which a lost answer leaves behind."""

PLANS_LAST = 1.0
"""Seconds that the plans of a producer's statements are kept: by then the table may be another."""

LOOKED: Final = 1.5
"""Intervals of polling for which a look at all queues stands in for a producer's own poll."""

NOW: Final = -math.inf
"""When something was done last that is to be done in the next cycle."""


class Cycle:
    """Writes the outcomes that have gathered and fetches as many jobs as there are free slots, in one statement.

    Cycles never overlap, so what is gathered while one is under way goes into the next. One that has nothing to write,
    and no reason to fetch, sends nothing.
    """

    def __init__(
        self,
        queue: str,
        *,
        tables: Tables,
        acker: Acker,
        writer: Writer,
        attempts: Attempts,
        registration: Registration,
        unknown: UnknownWorkers,
        source: telemetry.Source,
        poll_every: float,
        demand: Callable[[], int],
    ) -> None:
        """`demand` returns how many jobs can be taken."""
        self.hungry = True
        """Whether there may be jobs to fetch."""
        self.fetching = False
        """Whether a fetch was sent and is not answered yet."""
        self.emptied_at = -math.inf
        """When the last fetch was sent that found fewer jobs than it asked for, by this machine's monotonic clock."""
        self.calls_all = False
        """Whether all nodes are to be told that there may be jobs."""
        self.limited: Limited | None = None
        """The limits of the queue, where it has some."""
        self._queue = queue
        self._tables = tables
        self._acker = acker
        self._writer = writer
        self._attempts = attempts
        self._registration = registration
        self._unknown = unknown
        self._source = source
        self._poll_every = poll_every
        self._demand = demand
        self._cursor = Cursor()
        self._poll_at = 0.0
        self._planned_at = 0.0
        self._size = self._planned_for = -1  # no size that a look finds
        self._reclaimed_at = clock.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the next cycle has something to do already."""
        return (
            len(self._acker) > 0
            or self._registration.outdated
            or self.calls_all
            or (self.hungry and self._demand() > 0)
        )

    @property
    def next_at(self) -> float:
        """When the next cycle is due unless something happens before, by this machine's monotonic clock."""
        resume_at = math.inf if self.limited is None else self.limited.resume_at
        return min(self._poll_at, self._writer.look_at, resume_at)

    def looked(self, *, waits: bool, size: int) -> None:
        """Take note of a look at all queues: whether jobs wait in this one, and the size of the table."""
        now = clock.monotonic()
        self.hungry = self.hungry or waits
        # The next look comes in time to put this off again.
        self._poll_at = max(self._poll_at, now + LOOKED * self._poll_every)
        self._size = size
        if size == self._planned_for and self._tables.are_planned:
            self._planned_at = now  # as good as: a queue at rest would do nothing but plan the same again

    async def run(self) -> bool:
        """Do one cycle: whether the database answered a statement that fetches or writes outcomes."""
        if self._acker.refused:
            await self._writer.look_again()
        given_back = await self._look_after()
        asked = await self._exchange(self._demand())
        if self._attempts.turns.ended:
            await self._release()
        if self.calls_all:
            self.calls_all = False
            await self._tables.announce()
        # What the statement has made available, only the next one sees.
        self.hungry = self.hungry or given_back > 0
        return asked

    async def write(self) -> None:
        """Write outcomes, and neither fetch nor look after the row: this producer is about to end."""
        if self._acker.refused:
            await self._writer.look_again()
        await self._exchange(0)
        if self._attempts.turns.ended:
            await self._release()

    async def _release(self) -> None:
        """Let sequences go on whose jobs have ended here."""
        if await self._attempts.turns.release(self._acker.ids()):
            self.hungry = True
            if not self._demand():
                await self._tables.announce()

    async def _look_after(self) -> int:
        """Do what is due beside jobs: how many jobs are given back by the next outcomes."""
        given_back = 0
        # As `surely_there` has it, without a call in each cycle.
        if clock.monotonic() - self._registration.seen_at >= self._registration.sure_for:
            await self._registration.write()
        if clock.monotonic() - self._reclaimed_at > RECLAIM_EVERY:
            given_back = await self.give_back_unheard()
        if clock.monotonic() >= self._writer.look_at:
            await self._writer.look_aside()
        if self._registration.row is Row.LOST:
            await self._registration.recount()
        if self._registration.outdated:
            await self._registration.write()
        now = clock.monotonic()
        if now >= self._unknown.review_at:
            await self._review_unknown()
        if self.limited is not None and self.limited.resume(now):
            self.hungry = True
        polls = now >= self._poll_at
        if polls:
            self.hungry = True
            self._poll_at = now + self._poll_every
        # While no job waits, if possible: when this is only a look, or an outcome that is to be written.
        if now - self._planned_at > (PLANS_LAST if polls or not self.hungry else 3 * PLANS_LAST):
            self._planned_at = now
            self._planned_for = self._size
            await self._tables.plan_anew()
        return given_back

    async def _exchange(self, demand: int) -> bool:
        outcomes = self._acker.take()
        if not outcomes and not (demand and self.hungry):
            return False
        if demand:
            # Before the fetch and not after it: a job announced while it is under way asks for another.
            self.hungry = False
            self.fetching = True
        started = clock.monotonic()
        # As of a lone job: where the last fetch found fewer than it asked for, the next begins at the beginning.
        position = self._cursor.position(started) if demand and self._cursor.full_fetches else BEGINNING
        # Once the statement is on its way: reading rows and doing jobs is what there is to do meanwhile.
        self._attempts.begin_soon()
        try:
            unknown = self._unknown.condition() if demand and self._unknown.entries else None
            acked, fetched = await self._tables.exchange(outcomes, demand, position, unknown)
        except Exception as error:
            self._acker.failed(perhaps_written=is_away(error))
            if demand:
                self.hungry = True
                # It may have been committed, and its jobs be held without being known; but not where it met a lock.
                if not is_locked(error):
                    self._reclaimed_at = NOW
            if not outcomes or is_passing(error):
                raise
            await self._writer.one_by_one(error)
            return True
        except BaseException:
            self._acker.failed(perhaps_written=True)
            self._reclaimed_at = NOW
            raise
        finally:
            self.fetching = False
        took = clock.monotonic() - started
        if outcomes:
            self._acker.written(acked, duration=took)
        if demand:
            self._took(fetched, demand, position, took)
            if not self.hungry:
                self.emptied_at = started
        if self._unknown.gave_back and any(each.verdict.state is JobState.AVAILABLE for each in outcomes):
            self._unknown.gave_back = False
            await self._tables.announce()
        return True

    def _took(self, fetched: list[asyncpg.Record], demand: int, position: Position, took: float) -> None:
        most, again = demand, len(fetched) >= demand
        if self.limited is not None:
            most, again = min(demand, self.limited.granted), again or self.limited.skipped > 0
        # After a fetch from elsewhere another one from the beginning is due before the queue counts as empty.
        self.hungry = self.hungry or again or (position is not BEGINNING and len(fetched) < most)
        if most and (len(fetched) >= most or self._cursor.full_fetches):
            self._cursor.advance(position, fetched, most, duration=took)
        self._poll_at = clock.monotonic() + self._poll_every
        self._attempts.add(fetched)
        if listeners[telemetry.ProducerFetch]:
            telemetry.emit(
                telemetry.ProducerFetch(
                    runner=self._source, queue=self._queue, demand=demand, count=len(fetched), duration=took
                )
            )

    async def _review_unknown(self) -> None:
        """Find out whether this program, or another one on this queue, knows by now what was unknown."""
        self._unknown.look_again()
        now, others = await self._tables.reviewed()
        self._unknown.reviewed(now, others)
        self.hungry = True

    async def give_back_unheard(self) -> int:
        """Give back what was fetched without hearing so: how many jobs; their outcomes are still to be written."""
        rows = await self._tables.unheard(known=[*self._attempts.running, *self._acker.ids()])
        self._reclaimed_at = clock.monotonic()
        # A chunk may have fetched some before it, and after it was asked what is known.
        running = self._attempts.running
        rows = [row for row in rows if row["id"] not in running]
        if rows:
            self._attempts.give_back_unheard(rows)
            logger.warning("queue %s gave back %d jobs that it had fetched without hearing so", self._queue, len(rows))
        return len(rows)
