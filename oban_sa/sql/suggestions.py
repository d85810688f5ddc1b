"""Which workers the newest jobs are of, at a cost that the size of the table does not change."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Executable, Integer, func, literal, select

from oban_sa.sql.fetch import jobs

NEWEST: Final = 10_000
"""Newest jobs that are read; they lie side by side in the table."""
MOST: Final = 500
"""Pairs of worker and queue that are returned."""


def workers() -> Executable:
    """The workers of the newest jobs, with their queues, those of the most jobs first: rows of `worker`, `queue`."""
    newest = select(jobs.c.worker, jobs.c.queue).order_by(jobs.c.id.desc()).limit(literal(NEWEST, Integer()))
    each = newest.subquery("newest")
    grouped: Any = select(each.c.worker, each.c.queue).group_by(each.c.worker, each.c.queue)
    return grouped.order_by(func.count().desc(), each.c.worker, each.c.queue).limit(literal(MOST, Integer()))  # type: ignore[no-any-return]
