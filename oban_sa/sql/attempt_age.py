"""Keep executing jobs young: members of the family give jobs to others by the age of `attempted_at` alone."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Text,
    Update,
    bindparam,
    case,
    cast,
    func,
    select,
    update,
)

from oban_sa.sql.cancel_request import MARK, marked
from oban_sa.sql.expressions import array, inline, unnest
from oban_sa.sql.fence import by_holder, still_held
from oban_sa.sql.fetch import jobs

BEGAN: Final = "began"
"""The key in the meta of a job that is kept young; its value is `{"attempt": 1, "at": "2026-01-31T09:00:00.5"}`."""

_EMPTY = inline("'{}'::jsonb")


def keep_young() -> Executable:
    """Write `young` as the `attempted_at` of attempts that a producer holds: the ids of those where it was written.

    Rows that are locked are passed over: that of a session which is just committing must not hold up a heartbeat.
    The true start is kept in meta. Parameters: `holder`, `young`, and arrays of equal length `ids`, `attempts`,
    `moments` and `began_ats`. A row may hold any of several moments, as when an answer was lost: then its job stands
    there once for each.
    """
    aware = DateTime(timezone=True)
    said = unnest(id=BigInteger(), attempt=Integer(), moment=aware, began_at=aware)
    ids = array("ids", BigInteger())
    mine = (
        select(jobs.c.id, _utc(said.c.began_at).label("began_at"))
        .select_from(jobs.join(said, said.c.id == jobs.c.id))
        .where(jobs.c.id == func.any(ids), still_held(said.c.id, said.c.attempt, said.c.moment))
        .with_for_update(skip_locked=True, key_share=True, of=jobs)
        .cte("mine")
    )
    young = _utc(bindparam("young", type_=aware))
    began = func.jsonb_build_object(inline("'attempt'"), jobs.c.attempt, inline("'at'"), mine.c.began_at)
    # A cancel counts for the attempt in which it was asked for, which is told by this very moment: it moves along.
    mark = case((marked(), func.jsonb_build_object(inline(f"'{MARK}'"), young)), else_=_EMPTY)
    meta = func.coalesce(jobs.c.meta, _EMPTY)
    told = meta.op("||")(func.jsonb_build_object(inline(f"'{BEGAN}'"), began)).op("||")(mark)
    return (
        update(jobs)
        .where(jobs.c.id == mine.c.id)
        .values(
            attempted_at=young,
            meta=case((func.jsonb_typeof(meta) == inline("'object'"), told), else_=jobs.c.meta),
        )
        .returning(jobs.c.id)
    )


def revert() -> Update:
    """Write the true start of an attempt again, where the attempt still holds its job: one row, or none.

    What fences outcomes asks for the true start. Parameters: `job_id`, `of_attempt`, `holder`, `true_start`, and
    `moments`, naive, in UTC: the true start and all that may have been written in its place.
    """
    is_object = func.jsonb_typeof(jobs.c.meta) == inline("'object'")
    return (
        update(jobs)
        .where(
            jobs.c.id == bindparam("job_id", type_=BigInteger()),
            cast(jobs.c.state, Text) == inline("'executing'"),
            jobs.c.attempt == bindparam("of_attempt", type_=Integer()),
            jobs.c.attempted_at == func.any(array("moments", DateTime())),
            by_holder(),
        )
        .values(
            attempted_at=_utc(bindparam("true_start", type_=DateTime(timezone=True))),
            meta=case((is_object, jobs.c.meta.op("-")(inline(f"'{BEGAN}'"))), else_=jobs.c.meta),
        )
        .returning(jobs.c.id)
        .execution_options(synchronize_session=False)
    )


def _utc(moment: ColumnElement[datetime]) -> ColumnElement[datetime]:
    return func.timezone(inline("'UTC'"), moment, type_=DateTime())
