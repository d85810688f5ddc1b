"""Which attempt holds a job, by its row: `state`, `attempt`, `attempted_at` and `attempted_by` together."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Exists,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    exists,
    func,
    select,
)

from oban_sa.sql.cancel_request import marked
from oban_sa.sql.expressions import array, inline
from oban_sa.sql.fetch import FETCHED, answered, jobs


def still_held(
    job_id: ColumnElement[int], attempt: ColumnElement[int], attempted_at: ColumnElement[datetime]
) -> ColumnElement[bool]:
    """Whether the attempt that `holder` began at that moment holds the job: the fence before each outcome.

    Parameter: `holder`. The moment is aware.
    """
    # The number of the attempt is not enough: a snooze and a give-back refund it, so that the same holder may run the
    # same attempt again, and a late duplicate of the first outcome would free the second run.
    return fence(job_id, attempt, func.timezone(inline("'UTC'"), attempted_at, type_=DateTime()))


def fence(
    job_id: ColumnElement[int], attempt: ColumnElement[int], moment: ColumnElement[datetime]
) -> ColumnElement[bool]:
    """The same for a naive moment, in UTC."""
    # The row is found by its primary key alone. A plain `state = 'executing'` would let the planner walk the index on
    # state instead, dead entries included: 121 buffers per job instead of 8 over a drain. No index serves these guards.
    return (
        (jobs.c.id == job_id)
        & (cast(jobs.c.state, Text) == inline("'executing'"))
        & (jobs.c.attempt == attempt)
        & jobs.c.attempted_at.is_not_distinct_from(moment)
        & by_holder()
    )


def held() -> Select[int, datetime]:
    """Those of some jobs that a producer still holds: rows of `id`, `attempted_at`. Parameters: `holder`, `ids`."""
    return select(jobs.c.id, answered("attempted_at")).where(
        jobs.c.id == func.any(array("ids", BigInteger())),
        cast(jobs.c.state, Text) == inline("'executing'"),
        by_holder(),
    )


def wanted() -> Executable:
    """The same, with `called_off`: whether the job's cancellation was requested during this attempt."""
    return held().add_columns(marked().label("called_off"))


def unheard() -> Executable:
    """Jobs that a producer holds by their rows and does not know of: rows of `FETCHED`.

    A fetch whose answer was lost leaves such rows: they were claimed, committed, and never started. This only reads
    them. A statement that gave them back by itself might arrive late and take what was fetched since; an outcome has to
    pass the fence. Parameters: `queue`, `holder`, `known` (ids that the producer still works on).
    """
    return select(*(answered(name) for name in FETCHED)).where(
        jobs.c.state == inline("'executing'"),
        jobs.c.queue == bindparam("queue", type_=Text()),
        by_holder(),
        jobs.c.id != func.all(array("known", BigInteger())),
    )


def commit_status() -> Executable:
    """One row about an in-doubt transaction: its `status`, and whether the attempt still is `held`.

    The status is that of `txid_status`: `committed`, `aborted`, `in progress`, or null where the transaction is too
    long ago. A server that crashed may use a number again, but then the attempt is still held. Parameters: `xid`,
    `job_id`, `attempt`, `attempted_at` (aware) and `holder`.
    """
    status = func.txid_status(bindparam("xid", type_=BigInteger()))
    return select(status.label("status"), _is_held().label("held"))


def is_held() -> Executable:
    """Whether an attempt still holds its job. Parameters: `job_id`, `attempt`, `attempted_at` (aware) and `holder`."""
    return select(_is_held())


def _is_held() -> Exists:
    return exists().where(
        still_held(
            bindparam("job_id", type_=BigInteger()),
            bindparam("attempt", type_=Integer()),
            bindparam("attempted_at", type_=DateTime(timezone=True)),
        )
    )


def by_holder() -> ColumnElement[bool]:
    """Whether a producer holds the job. Parameter: `holder`."""
    return jobs.c.attempted_by == array("holder", Text())
