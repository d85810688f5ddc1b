"""What `Oban` tells of the limits of queues: how much of each is used, and which nodes do not observe them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import RowMapping

from oban_sa.client.queues import limits_of
from oban_sa.client.transactions import Transactions, Work
from oban_sa.client.waits import DEAD_AFTER, moment
from oban_sa.jobs.attempted_by import OURS
from oban_sa.schedule.periods import Period, seconds
from oban_sa.sql.planner import plainly
from oban_sa.sql.producers import LIMITS

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits


@dataclass(frozen=True, slots=True)
class PartitionUse:
    """A partition that is full: how many of its jobs execute, and how many are available, 1,000 at most."""

    key: str
    executing: int
    waiting: int


@dataclass(frozen=True, slots=True)
class LimitUse:
    """The limits of a queue and how much of them is used now.

    `nodes` observe these limits; another `LimitUse` of the queue is for nodes that observe others. `executing` counts
    jobs of the queue on all nodes, up to 10,000. `left` is how many jobs the queue's rate lets start now, None where it
    has none or each partition has its own; `until` when it lets the next one start, where none is left. `full` are
    partitions of which `each` jobs execute, ten at most, of `full_count`. `foreign` are nodes that serve the queue and
    do not observe its limits: other members of the Oban family, and instances of another name with other limits.
    """

    queue: str
    limits: Limits
    nodes: tuple[str, ...]
    executing: int
    left: int | None = None
    until: datetime | None = None
    full: tuple[PartitionUse, ...] = ()
    full_count: int = 0
    foreign: tuple[str, ...] = ()


class UsageControl:
    """The method that tells how much of limits is used."""

    name: str
    _transactions: Transactions

    async def check_limits(self, *, dead_after: Period = DEAD_AFTER) -> list[LimitUse]:
        """Return how much of the limits of each queue is used that nodes of this instance serve within limits.

        Nodes that are silent for `dead_after` are left out. It reads up to ten thousand executing jobs of each such
        queue, and locks and writes nothing.
        """
        dead_after = seconds(dead_after)
        return await self._transactions.run(lambda work: limit_use(work, self.name, dead_after))


def limit_use(work: Work, name: str, dead_after: float) -> list[LimitUse]:
    """Do as `Oban.check_limits`, in a transaction of its own."""
    from oban_sa.sql.usage import limited
    from oban_sa.sql.waits import serving

    work.execute(plainly())
    found: list[LimitUse] = []
    for queue in work.execute(limited()).scalars().all():
        rows = work.execute(serving(), {"queue": queue}).mappings().all()
        rows = [row for row in rows if row["silent_for"] is None or row["silent_for"] < dead_after]
        for limits, nodes in _ours(rows, name):
            foreign = tuple(dict.fromkeys(row["node"] for row in rows if _is_foreign(row, name, limits)))
            found.append(_use(work, queue, limits, nodes, foreign))
    return found


def not_observed(uses: Sequence[LimitUse]) -> list[str]:
    """Return a warning for each queue whose limits are not observed by all nodes that serve it."""
    return [
        f"The queue {use.queue} has limits, and {', '.join(use.foreign)} {verb} it without observing them, so they do "
        f"not hold. Give {their} jobs a queue of another name, or stop the queue there."
        for use in uses
        if use.foreign
        for verb, their in [("serves", "its") if len(use.foreign) == 1 else ("serve", "their")]
    ]


def _ours(rows: Sequence[RowMapping], name: str) -> list[tuple[Limits, tuple[str, ...]]]:
    """Return the limits that nodes of an instance observe, each with their names."""
    found: list[tuple[Limits, list[str]]] = []
    for row in rows:
        limits = limits_of(row["meta"].get(LIMITS)) if row["name"] == name else None
        if limits is None:
            continue
        for known, nodes in found:
            if known == limits:
                nodes.append(row["node"])
                break
        else:
            found.append((limits, [row["node"]]))
    return [(limits, tuple(nodes)) for limits, nodes in found]


def _is_foreign(row: RowMapping, name: str, limits: Limits) -> bool:
    if row["name"] is not None and limits_of(row["meta"].get(LIMITS)) == limits:
        return False
    # Of this instance's own nodes, whose settings may differ during a deploy, each has its own line.
    return re.match(OURS, row["uuid"] or "") is None or row["name"] not in (None, name)


def _use(work: Work, queue: str, limits: Limits, nodes: tuple[str, ...], foreign: tuple[str, ...]) -> LimitUse:
    from oban_sa.jobs.rates import Kept, left
    from oban_sa.sql.rates import name_of
    from oban_sa.sql.usage import full
    from oban_sa.sql.waits import EXECUTING, used

    given = {"queue": queue, "key": "", "most": EXECUTING, "each": 0, "rate_name": name_of(queue), "rate_key": ""}
    row = work.execute(used(), given).one()
    number, until = None, None
    rate = limits.rate
    if rate is not None and (rate.shared or limits.by is None):
        kept = Kept.read(row.width, row.newest, row.counts, row.full_at)
        number, until = left(rate, kept, now=row.now)
    rows: Sequence[RowMapping] = []
    if limits.each is not None:
        rows = work.execute(full(), {"queue": queue, "each": limits.each}).mappings().all()
    return LimitUse(
        queue,
        limits,
        nodes,
        executing=row.executing,
        left=number,
        until=None if until is None else moment(until),
        full=tuple(PartitionUse(each["key"], each["executing"], each["waiting"]) for each in rows),
        full_count=max((each["number"] for each in rows), default=0),
        foreign=foreign,
    )
