"""Make jobs available once their moment has come."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CTE, ColumnElement, Executable, Integer, Text, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline
from oban_sa.sql.moments import seconds_between, utc_now

STAGEABLE = jobs.c.state.in_((inline("'scheduled'"), inline("'retryable'")))
"""Written as the partial index on `(scheduled_at, id)` has it, so that the index serves."""


def staging() -> Executable:
    """Stage due jobs of every queue, oldest first, and announce their queues: rows of `queue`, `count`.

    Parameters: `limit`, `channel`.
    """
    staged = _staged()
    counted = select(staged.c.queue, func.count().label("count")).group_by(staged.c.queue).cte("counted")
    return select(counted.c.queue, counted.c.count, _announced(counted.c.queue).label("announced"))


def next_due() -> Executable:
    """One row: `seconds` until the next scheduled or retryable job is due, negative when overdue, or NULL."""
    first = select(func.min(jobs.c.scheduled_at).label("at")).where(STAGEABLE).subquery("first")
    return select(seconds_between(utc_now(), first.c.at).label("seconds"))


def unfinished() -> Executable:
    """One row: whether any of the queues has a job that is `available`, `executing` or `due`.

    Parameter: `queues`, an array. Jobs whose attempts are spent can't be fetched and do not count.
    """
    queues = cast(bindparam("queues", type_=ARRAY(Text())), ARRAY(Text()))
    mine = jobs.c.queue == func.any(queues)
    due = select(jobs.c.id).where(STAGEABLE, jobs.c.scheduled_at <= utc_now(), mine).exists()
    return select(
        select(jobs.c.id)
        .where(jobs.c.state == inline("'available'"), mine, jobs.c.attempt < jobs.c.max_attempts)
        .exists()
        .label("available"),
        select(jobs.c.id).where(jobs.c.state == inline("'executing'"), mine).exists().label("executing"),
        due.label("due"),
    )


def _announced(queue: ColumnElement[Any]) -> ColumnElement[Any]:
    payload = cast(func.json_build_object(inline("'queue'"), queue), Text)
    return func.pg_notify(bindparam("channel", type_=Text()), payload)


def _staged() -> CTE:
    due = (
        select(jobs.c.id)
        .where(STAGEABLE, jobs.c.scheduled_at <= utc_now())
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return (
        update(jobs)
        .where(jobs.c.id == due.c.id)
        .values(state=inline("'available'"))
        .returning(jobs.c.queue)
        .cte("staged")
    )
