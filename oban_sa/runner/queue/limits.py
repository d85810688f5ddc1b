"""The limits of one queue on one node: what its fetches ask for, and what they were told."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import asyncpg

from oban_sa import telemetry
from oban_sa.runner.queue.partitions import Ring
from oban_sa.schedule import clock
from oban_sa.sql.limits import Bounds
from oban_sa.sql.plan import Plan
from oban_sa.sql.rates import name_of

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits


class Limited:
    """A queue's limits, and what the last fetch was told of them.

    The database decides how many jobs are taken, by its own clock and rows. Here is remembered only when another fetch
    is worth while, so a mistake costs a statement and never exceeds a limit.
    """

    def __init__(self, limits: Limits, queue: str, source: telemetry.Source) -> None:
        self.limits = limits
        self.granted = 0
        """How many jobs the last fetch might have taken."""
        self.skipped = 0
        """How many keys it passed over of which another fetch may take jobs at once."""
        self.resume_at = math.inf
        """When to fetch again, by this machine's monotonic clock."""
        self.frees = limits.global_limit is not None or limits.each is not None
        """Whether a job that ends makes room for another one, on whichever node."""
        self._bounds = Bounds.of(limits, queue)
        rate = limits.rate
        self.rate: dict[str, object] | None = None
        """The parameters that give back what a rate has spent; None where there is none."""
        if rate is not None:
            self.rate = {
                "by_key": limits.by is not None and not rate.shared,
                "rate_name": name_of(queue),
                "rate_n": rate.n,
                "rate_per": rate.span,
                "rate_algorithm": rate.algorithm,
                "rate_burst": rate.burst,
                "rate_weight": [] if rate.weight is None else rate.weight.split("."),
            }
        self._ring = Ring() if limits.by is not None else None
        self._spent_until = -math.inf
        self._queue = queue
        self._source = source
        self._told_spent = False

    def plan(self, plain: Plan) -> Plan:
        """Return a plan with these limits."""
        return plain.within(self._bounds.filters, self._bounds.parameters)

    def given(self) -> dict[str, object]:
        """Return the parameters of the next fetch that differ from one to the next."""
        return {} if self._ring is None else {"ring": self._ring.cursor}

    @property
    def spent(self) -> bool:
        """Whether no job of the queue can be taken yet, since its rate is spent."""
        return clock.monotonic() < self._spent_until

    def hear(self, rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
        """Take note of what an answer tells in its last row, and return the others."""
        last = next(n for n in reversed(range(len(rows))) if rows[n]["granted"] is not None)
        told, now = rows.pop(last), clock.monotonic()
        self.granted = told["granted"]
        if self._ring is not None:
            taken = sum(row["acked"] is None for row in rows)
            self.skipped = self._ring.hear(told["last_key"], skipped=told["skipped"], taken=taken)
        spent_for, next_in = told["spent_for"], told["next_in"]
        self._spent_until = -math.inf if spent_for is None else now + spent_for
        self.resume_at = min(now + each for each in (spent_for, next_in, math.inf) if each is not None)
        self._tell(spent_for)
        return rows

    def gave_back(self) -> None:
        """Fetch again at once: what some jobs had spent was given back."""
        self._spent_until = -math.inf
        self.resume_at = clock.monotonic()

    def end(self) -> None:
        """Hold no longer: others are told that no rate is spent."""
        self._tell(None)

    def _tell(self, spent_for: float | None) -> None:
        # Not of each fetch that spends what has become available since the last one.
        if self._told_spent == (spent_for is not None):
            return
        self._told_spent = spent_for is not None
        telemetry.emit(
            telemetry.RateAvailable(runner=self._source, queue=self._queue)
            if spent_for is None
            else telemetry.RateSpent(runner=self._source, queue=self._queue, available_in=spent_for)
        )

    def resume(self, now: float) -> bool:
        """Whether it is time to fetch again; says so once."""
        if now < self.resume_at:
            return False
        self.resume_at = math.inf
        return True
