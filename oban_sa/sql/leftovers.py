"""Delete rows of ours that no job needs any more: unique keys, spent rates, leases of holders that died, journals."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    Table,
    Uuid,
    bindparam,
    delete,
    func,
    literal_column,
    select,
)

from oban_sa.models.base import Expression
from oban_sa.models.journal import Entry
from oban_sa.models.limit import Lease, Rate
from oban_sa.models.signal import SentSignal
from oban_sa.models.unique import Unique
from oban_sa.sql.expressions import inline, materialized, parameter, utc_now
from oban_sa.sql.fetch import jobs

_uniques: Final[Table] = Unique.metadata.tables["public.oban_sa_uniques"]
_rates: Final[Table] = Rate.metadata.tables["public.oban_sa_rates"]
_leases: Final[Table] = Lease.metadata.tables["public.oban_sa_leases"]
_journal: Final[Table] = Entry.metadata.tables["public.oban_sa_journal"]
_signals: Final[Table] = SentSignal.metadata.tables["public.oban_sa_signals"]

_BATCH: Final[ColumnElement[int]] = bindparam("batch", type_=Integer())


def forget_keys() -> Executable:
    """Delete unique keys of jobs that are deleted, among the next `batch` keys after `after`: one row.

    `last` is the last of these keys, NULL where there are none left; `seen` how many there were, `count` how many are
    deleted. Keys that another transaction has locked are passed over.
    """
    seen = materialized(
        select(_uniques.c.key, _uniques.c.job_id)
        .where(_uniques.c.key > parameter("after", Uuid()))
        .order_by(_uniques.c.key)
        .limit(_BATCH)
        .cte("seen")
    )
    gone = materialized(
        select(seen.c.key, seen.c.job_id)
        .where(~select(jobs.c.id).where(jobs.c.id == seen.c.job_id).exists())
        .cte("gone")
    )
    # A key may have been claimed meanwhile for a new job, which this snapshot does not see. Its newest row, which is
    # the one that is locked, points at that job then, and no longer at the one that is gone.
    locked = materialized(
        select(_uniques.c.key)
        .join_from(_uniques, gone, (_uniques.c.key == gone.c.key) & (_uniques.c.job_id == gone.c.job_id))
        .with_for_update(of=_uniques, skip_locked=True)
        .cte("locked")
    )
    forgotten = (
        delete(_uniques)
        .where(_uniques.c.key == func.any(func.array(select(locked.c.key).scalar_subquery())))
        .returning(_uniques.c.key)
        .cte("forgotten")
    )
    return select(
        select(seen.c.key).order_by(seen.c.key.desc()).limit(literal_column("1")).scalar_subquery().label("last"),
        select(func.count()).select_from(seen).scalar_subquery().label("seen"),
        select(func.count()).select_from(forgotten).scalar_subquery().label("count"),
    )


def forget_rates() -> Executable:
    """Delete rates of which nothing is spent any more, `batch` at most: a row each."""
    return _forget(_rates, _rates.c.full_at < utc_now() - inline("interval '1 minute'"))


def forget_leases() -> Executable:
    """Delete leases of holders that are silent for too long, `batch` at most: a row each."""
    return _forget(_leases, _leases.c.expires_at < utc_now() - inline("interval '1 minute'"))


def _forget(table: Table, over: ColumnElement[bool]) -> Executable:
    place: Expression = literal_column("ctid")
    picked = select(place).select_from(table).where(over).limit(_BATCH).with_for_update(skip_locked=True)
    ids = func.array(picked.scalar_subquery())
    return delete(table).where(place == func.any(ids), over).returning(table.c.name)


def forget_journals() -> Executable:
    """Delete the journals of jobs that are deleted, among the next `batch` entries of jobs after `after`: one row.

    Its columns are those of `forget_keys`. A row that the database shows has a job that it shows too, or showed.
    """
    return _forget_of_jobs(_journal)


def forget_signals() -> Executable:
    """Delete signals to jobs that are deleted; as `forget_journals`."""
    return _forget_of_jobs(_signals)


def _forget_of_jobs(table: Table) -> Executable:
    seen = materialized(
        select(table.c.job_id)
        .where(table.c.job_id > parameter("after", BigInteger()))
        .order_by(table.c.job_id)
        .limit(_BATCH)
        .cte("seen")
    )
    ids = select(seen.c.job_id).where(~select(jobs.c.id).where(jobs.c.id == seen.c.job_id).exists()).distinct()
    gone = (
        delete(table)
        .where(table.c.job_id == func.any(func.array(ids.scalar_subquery())))
        .returning(table.c.job_id)
        .cte("gone")
    )
    return select(
        select(func.max(seen.c.job_id)).scalar_subquery().label("last"),
        select(func.count()).select_from(seen).scalar_subquery().label("seen"),
        select(func.count()).select_from(gone).scalar_subquery().label("count"),
    )
