"""Write what this node did by minute, hour and day, and what waits where this node leads."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import Executable

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.cluster.tally import Counts, Tally
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql import metrics
from oban_sa.sql.counts import count

logger = logging.getLogger("oban_sa.runner")

EVERY: Final = 60.0
"""Seconds between two looks at what waits, and between two writes of hours and days."""

MOST: Final = 10_000
"""Jobs of a queue that are counted; where there are more, this is what is written."""

BATCH: Final = 1_000
"""Rows of each step that one statement deletes."""

REFUSED_FOR: Final = 600.0
"""Seconds after which a role that lacked a right is tried again."""

CLOSING: Final = 2.0
"""Seconds that a stopping runner spends on its last counts."""

_Key = tuple[int, int, str, str]
"""Step, beginning in seconds since 1970, queue and worker."""


@dataclass(slots=True)
class _Row:
    counts: Counts
    backlog: int | None = None
    oldest: float | None = None


def _oldest() -> Executable:
    from oban_sa.sql.overview import oldest  # what it is made of shows people jobs, and few nodes lead

    return oldest()


class Metrics:
    """Writes the counts of a tally every few seconds, all of them in one statement, and none where there are none.

    Hours and days are written once a minute. A batch that failed is sent again as it was, so that one whose answer was
    lost is not counted twice, and the next has all that was counted meanwhile. No job waits for any of this, and a role
    that may not write here is told so once.
    """

    def __init__(
        self,
        database: Database,
        leader: Leader,
        tally: Tally,
        *,
        source: telemetry.Source,
        every: float,
        served: Callable[[], Iterable[str]],
    ) -> None:
        """`served` returns the queues of this node, of which it says also that nothing waits."""
        self._line = database.shared
        self._leader = leader
        self._tally = tally
        self._node = source.node
        self._every = every
        self._served = served
        self._now = database.prepare(metrics.now)
        self._adding = database.prepare(metrics.add, database.schema)
        self._forgetting = database.prepare(metrics.forget, database.schema)
        self._counting = database.prepare(count, (JobState.AVAILABLE,))
        self._oldest = database.prepare(_oldest)
        self._sending: tuple[UUID, str] | None = None
        self._minutes: dict[_Key, _Row] = {}
        self._longer: dict[_Key, _Row] = {}
        self._longer_at = 0.0
        # Not at once: a node that starts has better things to do.
        self._looked_at = clock.monotonic()
        self._waited: set[str] = set()
        self._synchronized = False
        self._told = False

    async def tick(self) -> float:
        """Write what was counted since the last time."""
        try:
            if not self._synchronized:
                self._synchronize(await self._line.fetch(self._now))
            if self._leader.leading and clock.monotonic() - self._looked_at >= EVERY:
                self._looked_at = clock.monotonic()
                await self._look()
                await self._forget()
            await self._flush()
        except asyncpg.InsufficientPrivilegeError as error:
            self._sending = None
            self._tally.take()
            if not self._told:
                self._told = True
                logger.warning(
                    "what this node does is not kept for the dashboard's metrics: %s; let the owner of the tables run "
                    "what `python -m oban_sa grants --role runner` prints, or set metrics_every to none",
                    describe(error),
                )
            return REFUSED_FOR
        # So that nodes that were started together do not write at the same moment.
        return self._every * random.uniform(0.9, 1.1)

    async def close(self) -> None:
        """Write what is left, where the database answers soon."""
        if self._synchronized:  # else the runner has not begun, or never reached the database
            with suppress(Exception):
                async with asyncio.timeout(CLOSING):
                    await self._flush(everything=True)
        await self._line.close()

    def _synchronize(self, rows: list[Any]) -> None:
        self._tally.set_clock(float(rows[0]["now"]), at=clock.monotonic())
        self._synchronized = True

    async def _flush(self, *, everything: bool = False) -> None:
        """Write the batch that failed before, if one did, and then what was counted since."""
        for again in (True, False):
            if self._sending is None and not again:
                self._sending = self._collect(everything=everything)
            if self._sending is None:
                continue
            flush, rows = self._sending
            self._synchronize(await self._line.fetch(self._adding, rows=rows, node=self._node, flush=flush))
            self._sending = None

    def _collect(self, *, everything: bool) -> tuple[UUID, str] | None:
        """Make a batch of what is to be written; None where there is nothing."""
        for minute, by_worker in self._tally.take().items():
            for (queue, worker), counts in by_worker.items():
                for each in (worker, metrics.ALL):
                    self._add(minute * 60, queue, each, _Row(counts))
        rows, self._minutes = self._minutes, {}
        if everything or clock.monotonic() - self._longer_at >= EVERY:
            self._longer_at = clock.monotonic()
            rows |= self._longer
            self._longer = {}
        if not rows:
            return None
        return uuid4(), values.dumps([_written(key, row) for key, row in rows.items()])

    def _add(self, at: int, queue: str, worker: str, row: _Row) -> None:
        for step in metrics.KEPT:
            rows = self._minutes if step == metrics.MINUTE else self._longer
            key = (step, at - at % step, queue, worker)
            if (into := rows.get(key)) is None:
                into = rows[key] = _Row(Counts())
            into.counts.add(row.counts)
            into.backlog = _highest(into.backlog, row.backlog)
            into.oldest = _highest(into.oldest, row.oldest)

    async def _look(self) -> None:
        """Count what waits in each queue, and how long the first of it has."""
        found = {str(row["queue"]): int(row["count"]) for row in await self._line.fetch(self._counting, limit=MOST)}
        waits: dict[str, float] = {}
        if found:
            rows = await self._line.fetch(self._oldest, queues=list(found))
            waits = {str(row["queue"]): max(float(row["waiting_for"]), 0.0) for row in rows}
        at = int(self._tally.now() // 60) * 60
        # A queue that is empty now and was not has come down to 0.
        for queue in {*found, *self._waited, *self._served()}:
            row = _Row(Counts(), found.get(queue, 0), waits.get(queue, 0.0))
            self._add(at, queue, metrics.ALL, row)
        self._waited = set(found)

    async def _forget(self) -> None:
        while (await self._line.fetch(self._forgetting, batch=BATCH))[0]["count"] >= BATCH:
            pass


def _highest(one: Any, other: Any) -> Any:
    return max((each for each in (one, other) if each is not None), default=None)


def _written(key: _Key, row: _Row) -> dict[str, object]:
    step, at, queue, worker = key
    return {
        "step": step,
        "at": at,
        "queue": queue,
        "worker": worker,
        "outcomes": {str(state): count for state, count in row.counts.outcomes.items()},
        "failures": row.counts.failures,
        "run": {str(number): count for number, count in row.counts.run.items()},
        "wait": {str(number): count for number, count in row.counts.wait.items()},
        "backlog": row.backlog,
        "oldest": row.oldest,
    }
