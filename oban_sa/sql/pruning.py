"""Delete jobs that are over, oldest first, without ever waiting for a lock."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Delete,
    Double,
    Executable,
    Integer,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.models import Job
from oban_sa.retention import Rule
from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline
from oban_sa.sql.moments import seconds_earlier, utc_now
from oban_sa.states import JobState

MOMENTS: Final = {
    JobState.COMPLETED: jobs.c.completed_at,
    JobState.CANCELLED: jobs.c.cancelled_at,
    JobState.DISCARDED: jobs.c.discarded_at,
}
"""When a job came to its end; each has an index of its own, partial on its state."""


def too_old() -> Any:
    """One row, `at`: jobs that ended then are `age` seconds old by the database's clock."""
    return select(seconds_earlier(utc_now(), bindparam("age", type_=Double())).label("at"))


def too_many(rule: Rule) -> Any:
    """The newest job of a rule that is one too many, as `at` and `id`; no row where there are not too many.

    Reads as many entries of the index as jobs are kept, and those of other rules between them. Parameter: `keep`.
    """
    moment = MOMENTS[rule.state]
    return (
        select(moment.label("at"), jobs.c.id)
        .where(*_within(rule))
        .order_by(moment.desc(), jobs.c.id.desc())
        .offset(bindparam("keep", type_=BigInteger()))
        .limit(inline("1"))
    )


def pruning(rule: Rule) -> Executable:
    """Delete the oldest jobs of a rule up to a bound, `batch` at most: one row of `count` and `last`, when one ended.

    Rows that somebody holds are passed over. Parameters: `since`, where the last batch came to (or NULL for the first),
    `at` and `id` of the bound, `held` (ids that can't be deleted), `batch`.
    """
    moment = MOMENTS[rule.state]
    picked = (
        select(jobs.c.id, moment.label("at"))
        .where(*_prunable(rule))
        # By the moment alone, as the index is: with the id, thousands that ended in one transaction would be sorted.
        .order_by(moment)
        .limit(bindparam("batch", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    # An array, not a join: whatever the planner believes of the table's size, rows are found by their primary key.
    ids = func.array(select(picked.c.id).scalar_subquery())
    gone = delete(jobs).where(jobs.c.id == func.any(ids)).returning(moment.label("at")).cte("gone")
    return select(func.count().label("count"), func.max(gone.c.at).label("last")).select_from(gone)


def archivable(rule: Rule) -> Any:
    """The jobs that `pruning` would delete, locked. The parameters are the same."""
    moment = MOMENTS[rule.state]
    return (
        select(Job)
        .where(*_prunable(rule))
        .order_by(moment)
        .limit(bindparam("batch", type_=Integer()))
        .with_for_update(skip_locked=True)
    )


def holdable(rule: Rule) -> Any:
    """The jobs that `pruning` would delete, locked: rows of `id` and `at`. The parameters are the same."""
    moment = MOMENTS[rule.state]
    return (
        select(jobs.c.id, moment.label("at"))
        .where(*_prunable(rule))
        .order_by(moment)
        .limit(bindparam("batch", type_=Integer()))
        .with_for_update(skip_locked=True)
    )


def deleting() -> Delete:
    """Delete jobs by their ids. Parameter: `ids`."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    return delete(jobs).where(jobs.c.id == func.any(ids)).execution_options(synchronize_session=False)


def _prunable(rule: Rule) -> list[ColumnElement[bool]]:
    moment = MOMENTS[rule.state]
    at = cast(bindparam("at", type_=DateTime()), DateTime)
    # An index is walked from its low end, over the entries of all that was deleted since the last vacuum: `since` skips
    # them, and those that other rules keep.
    since = func.coalesce(
        cast(bindparam("since", type_=DateTime()), DateTime), literal_column("'-infinity'::timestamp")
    )
    return [
        *_within(rule),
        moment >= since,
        moment <= at,
        (moment < at) | (jobs.c.id <= cast(bindparam("id", type_=BigInteger()), BigInteger)),
        jobs.c.id != func.all(cast(bindparam("held", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))),
    ]


def _within(rule: Rule) -> list[ColumnElement[bool]]:
    """The jobs of a rule; the state is written out, as the partial indexes have it."""
    wanted: list[ColumnElement[bool]] = [jobs.c.state == inline(f"'{rule.state.value}'")]
    if rule.worker is not None:
        wanted.append(jobs.c.worker == bindparam("of_worker", rule.worker, type_=Text()))
    if rule.queue is not None:
        wanted.append(jobs.c.queue == bindparam("of_queue", rule.queue, type_=Text()))
    wanted += _but(jobs.c.queue, "but_queues", rule.but_queues)
    wanted += _but(jobs.c.worker, "but_workers", rule.but_workers)
    return wanted


def _but(column: Column[Any], name: str, values: tuple[str, ...]) -> list[ColumnElement[bool]]:
    if not values:
        return []
    others = cast(bindparam(name, list(values), type_=ARRAY(Text())), ARRAY(Text()))
    return [column != func.all(others)]
