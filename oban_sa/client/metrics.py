"""What runners did in the last hour, day, week or month: read from the sums that they have written."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from oban_sa.client.counts import Sums, sums_of
from oban_sa.client.oban import Oban
from oban_sa.client.read import database_now, read_session
from oban_sa.errors import InvalidOption, nearest
from oban_sa.schedule.periods import Period, describe, seconds
from oban_sa.sql import metrics

MOST_QUEUES: Final = 50
"""Queues that are read, at most."""

MOST_ROWS: Final = 2_000
"""Rows of a queue that are read, at most: one for each moment and node."""

MOST_OF_WORKERS: Final = 5_000
"""Rows of workers that are read, at most: one for each moment, node, queue and worker."""

MEASURED: Final = 1_000
"""The same of which durations are added up: a row has many times as many counts of these as of outcomes."""

_LONGEST: Final = 1e9
"""Seconds that a job may have waited."""


@dataclass(frozen=True, slots=True)
class Span:
    """How far back is looked: so many steps, each of so many seconds, the last of them under way."""

    name: str
    step: int
    count: int


SPANS: Final[Mapping[str, Span]] = {
    each.name: each
    for each in (
        Span("1h", metrics.MINUTE, 60),
        Span("24h", metrics.HOUR, 24),
        Span("7d", metrics.HOUR, 7 * 24),
        Span("30d", metrics.DAY, 30),
    )
}


@dataclass(slots=True)
class Moment:
    """One step; by queue, how many jobs were available then, and the seconds that the first had waited, at most.

    Both are empty where no node that leads has looked.
    """

    at: datetime
    sums: Sums = field(default_factory=Sums)
    backlogs: dict[str, int] = field(default_factory=dict[str, int])
    ages: dict[str, float] = field(default_factory=dict[str, float])

    def keep_highest(self, queue: str, backlog: int | None, oldest: float | None) -> None:
        """Take in what a node saw waiting in a queue, where that is more; None and what can't be say nothing."""
        if backlog is not None and backlog >= 0:
            self.backlogs[queue] = max(backlog, self.backlogs.get(queue, 0))
        if oldest is not None and 0 <= oldest <= _LONGEST:
            self.ages[queue] = max(round(oldest, 3), self.ages.get(queue, 0.0))

    @property
    def backlog(self) -> int | None:
        """How many jobs were available in all queues together; None where no node has looked."""
        return sum(self.backlogs.values()) if self.backlogs else None

    @property
    def oldest(self) -> float | None:
        """How many seconds the first of these had waited; None where no node has looked."""
        return max(self.ages.values()) if self.ages else None


@dataclass(frozen=True, slots=True)
class Metrics:
    """What was read: moments, oldest first; workers by queue and name; all together.

    `queues` are those that there is something of. `moments_since` and `workers_since` are where reading has ended
    before the beginning of the span, as there are very many nodes or workers, and `measured_since` where it has for the
    durations of workers.
    """

    span: Span
    now: datetime
    moments: Sequence[Moment]
    workers: Mapping[tuple[str, str], Sums]
    all: Sums
    queues: Sequence[str]
    moments_since: datetime | None = None
    workers_since: datetime | None = None
    measured_since: datetime | None = None

    def by_queue(self) -> dict[str, Sums]:
        """Return what the workers of each queue did, those with the most failures first; all queues that are known."""
        found: dict[str, Sums] = {queue: Sums() for queue in self.queues}
        for (queue, _), sums in self.workers.items():
            found.setdefault(queue, Sums()).merge(sums)
        return dict(sorted(found.items(), key=lambda each: (-each[1].failed, -each[1].total, each[0])))

    def waiting(self, queue: str | None = None) -> tuple[int | None, float | None]:
        """Return how many jobs of a queue, or of all, were available at last, and the seconds the first had waited.

        Both are None where no node has looked.
        """
        for moment in reversed(self.moments):
            if queue is None and moment.backlogs:
                return moment.backlog, moment.oldest
            if queue in moment.backlogs:
                return moment.backlogs[queue], moment.ages.get(queue)
        return None, None


def span_back(period: Period) -> Span:
    """Return the span that reaches so far back, in the shortest step that is kept for as long.

    Raises InvalidOption for what is no period, and for one that nothing is kept for.
    """
    within = seconds(period)
    for step, kept in metrics.KEPT.items():
        if within <= kept:
            return Span(describe(within), step, max(1, math.ceil(within / step)))
    most = describe(max(metrics.KEPT.values()))
    raise InvalidOption(f"what runners did is kept for {most}; {describe(within)} is further back")


def span_of(name: str) -> Span:
    """Return a span by its name; raises InvalidOption for one that there is not."""
    if name not in SPANS:
        raise InvalidOption(f"the span is one of {', '.join(SPANS)}, not {name[:40]!r}{nearest(name, SPANS)}")
    return SPANS[name]


async def read_metrics(
    reader: Oban, span: Span, *, queues: Collection[str] | None = None, worker: str | None = None
) -> Metrics:
    """Read what was done in a span, by some queues or all, and by one worker or all.

    Two statements, whose cost is bounded by the numbers of queues, nodes and workers, and not by the jobs there are.
    """
    async with read_session(reader) as session:
        now = await database_now(session)
        first = _first(span, now)
        given: dict[str, object] = {
            "step": span.step,
            "queues": None if queues is None else sorted(queues),
            "queues_at_most": MOST_QUEUES,
        }
        of_time = {**given, "since": first.timestamp(), "worker": worker or metrics.ALL, "at_most": MOST_ROWS}
        rows = (await session.execute(metrics.by_time(reader.schema), of_time)).all()
        of_workers = {
            **given,
            "worker": worker or None,
            "at_most": MOST_OF_WORKERS,
            "measured": MEASURED,
            **_parts(span, first, now),
        }
        lines = (await session.execute(metrics.by_worker(reader.schema), of_workers)).all()
    begun = int(first.timestamp())
    moments = {at: Moment(_at(at)) for at in range(begun, begun + span.step * span.count, span.step)}
    every, read = Sums(), Counter[str]()
    for row in rows:
        read.update(row.queues)
        if (moment := moments.get(row.at)) is not None:
            for waiting in zip(row.queues, row.backlogs, row.oldests, strict=True):
                moment.keep_highest(*waiting)
            moment.sums = sums_of(outcomes=row.outcomes, run=row.run, wait=row.wait)
            every.merge(moment.sums)
        # To add up takes a while, in which no other request of this process should have to wait.
        await asyncio.sleep(0)
    workers: dict[tuple[str, str], Sums] = {}
    for line in lines:
        sums = sums_of(outcomes=line.outcomes, failures=line.failures, run=line.run, wait=line.wait)
        workers[line.queue, line.worker] = sums
        every.failures.update(sums.failures)
        await asyncio.sleep(0)
    looked_at = sum(line.looked_at for line in lines)
    held = [moment.at for moment in moments.values() if moment.sums.total or moment.backlog is not None]
    return Metrics(
        span=span,
        now=now,
        moments=list(moments.values()),
        workers=dict(sorted(workers.items(), key=lambda each: (-each[1].failed, -each[1].total, each[0]))),
        all=every,
        queues=sorted(read),
        moments_since=min(held) if held and any(count >= MOST_ROWS for count in read.values()) else None,
        workers_since=_at(min(line.first for line in lines)) if looked_at >= MOST_OF_WORKERS else None,
        measured_since=(
            _at(min(line.first_measured for line in lines if line.first_measured is not None))
            if looked_at > MEASURED
            else None
        ),
    )


def _first(span: Span, now: datetime) -> datetime:
    seconds = int(now.timestamp()) // span.step * span.step
    return datetime.fromtimestamp(seconds - span.step * (span.count - 1), UTC)


def _parts(span: Span, first: datetime, now: datetime) -> dict[str, object]:
    """Return the parts of a span in which workers are read: whole days by days, where there are several of them."""
    begins, ends = first.timestamp(), now.timestamp() + span.step
    days = math.ceil(begins / metrics.DAY) * metrics.DAY, now.timestamp() // metrics.DAY * metrics.DAY
    parts = [(span.step, begins, ends)]
    if span.step == metrics.HOUR and days[1] - days[0] > metrics.DAY:
        parts = [(span.step, begins, days[0]), (metrics.DAY, *days), (span.step, days[1], ends)]
    return dict(zip(("steps", "begins", "ends"), map(list, zip(*parts, strict=True)), strict=True))


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
