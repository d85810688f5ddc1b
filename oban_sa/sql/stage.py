"""Make jobs available once they are due."""

from __future__ import annotations

from functools import cache

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Executable,
    Integer,
    Text,
    bindparam,
    cast,
    func,
    select,
    true,
    update,
)

from oban_sa.sql.expressions import array, inline, materialized, seconds_between, seconds_later, utc_clock, utc_now
from oban_sa.sql.fetch import jobs
from oban_sa.sql.notify import TURNS

STAGEABLE = jobs.c.state.in_((inline("'scheduled'"), inline("'retryable'")))
"""Written as the partial index on `(scheduled_at, id)` has it, so that the index serves."""


def stage(*conditions: ColumnElement[bool]) -> Executable:
    """Stage due jobs of every queue, oldest first, announce their queues, and look ahead, in one round trip.

    Rows of `queue`, `count` and `seconds` until the next job is due, which is NULL where there is none; where nothing
    was staged one row that has only that. Only jobs are staged for which all `conditions` hold. Parameters: `limit`,
    `channel`.
    """
    staged = _staged(*conditions)
    counted = (
        select(staged.c.queue, func.count().label("count"), _announced(staged.c.queue).label("announced"))
        .group_by(staged.c.queue)
        .cte("counted")
    )
    # What is due by now was staged above, or is locked by another transaction.
    following = select(func.min(jobs.c.scheduled_at).label("at")).where(STAGEABLE, jobs.c.scheduled_at > utc_now())
    ahead = following.subquery("ahead")
    return select(
        counted.c.queue,
        counted.c.count,
        counted.c.announced,
        seconds_between(utc_clock(), ahead.c.at).label("seconds"),
    ).select_from(ahead.outerjoin(counted, true()))


def unfinished(*conditions: ColumnElement[bool], also: ColumnElement[bool] | None = None) -> Executable:
    """One row: whether any of the queues has a job that is `available`, `executing` or `due`.

    Parameter: `queues`, an array. Jobs whose attempts are spent can't be fetched and do not count, nor do available
    ones for which not all `conditions` hold. The row also has what is asked for as `also`, in the same snapshot.
    """
    mine = jobs.c.queue == func.any(array("queues", Text()))
    due = select(jobs.c.id).where(STAGEABLE, jobs.c.scheduled_at <= utc_now(), mine).exists()
    return select(
        select(jobs.c.id)
        .where(jobs.c.state == inline("'available'"), mine, jobs.c.attempt < jobs.c.max_attempts, *conditions)
        .exists()
        .label("available"),
        select(jobs.c.id).where(jobs.c.state == inline("'executing'"), mine).exists().label("executing"),
        due.label("due"),
        *(() if also is None else (also.label("also"),)),
    )


def _announced(queue: ColumnElement[str]) -> ColumnElement[object]:
    # As `wire.messages.insert` has it. A turn at random: each node that stages would count its own.
    turn = cast(func.floor(func.random() * inline(str(TURNS))), Integer)
    names = [inline(f"'{name}'") for name in ("queue", "jobs", "turn")]
    message = func.json_build_object(names[0], queue, names[1], func.count(), names[2], turn)
    payload = cast(message, Text)
    return func.pg_notify(bindparam("channel", type_=Text()), payload)


@cache
def among() -> ColumnElement[bool]:
    """Whether a job is one of some. Parameter: `ids`."""
    return jobs.c.id == func.any(array("ids", BigInteger()))


def due() -> Executable:
    """The ids of the jobs that are due, oldest first. Parameter: `limit`."""
    return (
        select(jobs.c.id)
        .where(STAGEABLE, jobs.c.scheduled_at <= utc_now())
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(bindparam("limit", type_=Integer()))
    )


def postpone() -> Executable:
    """Postpone a due job by some seconds: its id. Parameters: `job_id`, `seconds`."""
    return (
        update(jobs)
        .where(jobs.c.id == bindparam("job_id", type_=BigInteger()), STAGEABLE, jobs.c.scheduled_at <= utc_now())
        .values(scheduled_at=seconds_later(utc_now(), bindparam("seconds", type_=Double())))
        .returning(jobs.c.id)
    )


def _staged(*conditions: ColumnElement[bool]) -> CTE:
    due = materialized(
        select(jobs.c.id)
        .where(STAGEABLE, jobs.c.scheduled_at <= utc_now(), *conditions)
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(bindparam("limit", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(jobs)
        .where(jobs.c.id == due.c.id)
        .values(state=inline("'available'"))
        .returning(jobs.c.queue)
        .cte("staged")
    )
