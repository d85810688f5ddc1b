"""Write what became of attempts, fenced: only the attempt that holds a job may say how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Executable,
    Integer,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    func,
    null,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.sql.elements import Grouping

from oban_sa.sql.fetching import FETCHED, jobs, taking
from oban_sa.sql.literals import inline
from oban_sa.sql.marks import marked
from oban_sa.sql.moments import seconds_later, utc_clock

VERDICT_COLUMNS: dict[str, Any] = {
    "id": BigInteger(),
    "attempt": Integer(),
    "state": Text(),
    "delay": Double(),
    "error": Text(),
    "meta": Text(),
    "refund": Boolean(),
    "attempted_at": DateTime(timezone=True),
}
"""What is said of an attempt, each a parameter of its own: arrays of equal length named `ids`, `attempts`, ..."""


def acking() -> Executable:
    """The ids of the jobs whose outcome was written; those missing from it had been lost to another attempt.

    Parameters: `holder`, and for each of `VERDICT_COLUMNS` an array with its name in the plural.
    """
    return select(_acked().c.id)


def acking_and_fetching(*conditions: ColumnElement[bool]) -> Executable:
    """Acks and a fetch in one round trip and one commit: rows of `FETCHED` and `acked`, one of the two filled.

    Both halves see the same snapshot, so a job that this statement makes available is fetched by a later one.
    Parameters: those of `acking` and those of `fetching`, with the same `conditions`.
    """
    return _cycle(_acked(), taking(*conditions))


def completing_and_fetching(*conditions: ColumnElement[bool]) -> Executable:
    """The same where every attempt is completed and nothing else is said of it, for a tenth less work.

    Attempts that were fetched at once differ in nothing but their jobs. So what the fence asks for stands once for all
    of them, in arrays `fence_attempts` and `fence_moments`, and each job says which of their elements is its own.
    Parameters: these (the moments naive, in UTC), `ids` and `fences` of equal length (which element, from 1 on),
    `holder`, and those of `fetching`.
    """
    return _cycle(_completed(), taking(*conditions))


def acking_one() -> Update:
    """The ack of a single attempt for use inside a session's own transaction; no row means that the job was lost.

    Parameters: `job_id`, `holder`, and for each of `VERDICT_COLUMNS` but the first one with `said_` before its name.
    """
    said: dict[str, Any] = {
        name: bindparam("job_id" if name == "id" else f"said_{name}", type_=type_)
        for name, type_ in VERDICT_COLUMNS.items()
    }
    return (
        update(jobs)
        .where(still_held(said["id"], said["attempt"], said["attempted_at"]))
        .values(_outcome(said))
        .returning(jobs.c.id)
        .execution_options(synchronize_session=False)
    )


def noting() -> Update:
    """Keep the error of an attempt whose job somebody set `cancelled` while it ran, as Elixir's nodes do at once.

    One row where it is kept, also where it was before; no row where the job is anything else. Parameters: `job_id`,
    `of_attempt`, `holder`, `text`, and `moments`, naive, in UTC: what the row may have as `attempted_at`.
    """
    moments = cast(bindparam("moments", type_=ARRAY(DateTime())), ARRAY(DateTime()))
    attempt = cast(bindparam("of_attempt", type_=Integer()), Integer)
    entry = error_entry(attempt, cast(bindparam("text", type_=Text()), Text))
    same = func.jsonb_build_array(func.jsonb_build_object(inline("'attempt'"), attempt))
    known = func.to_jsonb(jobs.c.errors).op("@>", is_comparison=True)(same)
    return (
        update(jobs)
        .where(
            jobs.c.id == bindparam("job_id", type_=BigInteger()),
            cast(jobs.c.state, Text) == inline("'cancelled'"),
            jobs.c.attempt == attempt,
            jobs.c.attempted_at == func.any(moments),
            jobs.c.attempted_by == cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text())),
        )
        .values(errors=case((known, jobs.c.errors), else_=jobs.c.errors.op("||")(entry)))
        .returning(jobs.c.id)
    )


def _cycle(acked: CTE, taken: CTE) -> Executable:
    return select(
        union_all(
            select(*(taken.c[name] for name in FETCHED), cast(null(), BigInteger).label("acked")),
            select(*(null().label(name) for name in FETCHED), acked.c.id),
        ).subquery("cycle")
    )


def _acked() -> CTE:
    return _written(VERDICT_COLUMNS, _outcome)


def _completed() -> CTE:
    ids = _array("ids", BigInteger())
    said = func.unnest(ids, _array("fences", Integer())).table_valued(
        column("id", BigInteger()), column("fence", Integer())
    )
    said = said.render_derived("said")
    attempt = Grouping(_array("fence_attempts", Integer()))[said.c.fence]
    moment = Grouping(_array("fence_moments", DateTime()))[said.c.fence]
    return _update(
        ids, _fence(said.c.id, attempt, moment), {"state": inline("'completed'"), "completed_at": utc_clock()}
    )


def _written(columns: Mapping[str, Any], outcome: Callable[[Any], dict[str, Any]]) -> CTE:
    """Write `outcome`, made of the `columns` of what is said, where the attempt still holds its job."""
    arrays = {name: _array(f"{name}s", type_) for name, type_ in columns.items()}
    said = func.unnest(*arrays.values()).table_valued(*(column(name, type_) for name, type_ in columns.items()))
    said = said.render_derived("said")
    held = still_held(said.c.id, said.c.attempt, said.c.attempted_at)
    return _update(arrays["id"], held, outcome(said.c))


def _array(name: str, type_: Any) -> ColumnElement[Any]:
    return cast(bindparam(name, type_=ARRAY(type_)), ARRAY(type_))


def _update(ids: ColumnElement[Any], held: ColumnElement[bool], outcome: Mapping[str, Any]) -> CTE:
    # Twice by id: whichever way the rows and what is said of them are joined, no other row is ever looked at.
    changing: Any = update(jobs).where(jobs.c.id == func.any(ids), held).values(outcome)
    changed: CTE = changing.returning(jobs.c.id).cte("acked")
    return changed


def still_held(
    job_id: ColumnElement[Any], attempt: ColumnElement[Any], attempted_at: ColumnElement[Any]
) -> ColumnElement[bool]:
    """Whether the attempt that `holder` began at that moment holds the job: the fence that each outcome has to pass."""
    # The number of the attempt is not enough: a snooze and a give-back refund it, so that the same holder may run the
    # same attempt again, and a late duplicate of the first outcome would free the second run.
    return _fence(job_id, attempt, func.timezone(inline("'UTC'"), attempted_at, type_=DateTime()))


def _fence(job_id: ColumnElement[Any], attempt: ColumnElement[Any], moment: ColumnElement[Any]) -> ColumnElement[bool]:
    # The row is found by its primary key alone. A plain `state = 'executing'` would let the planner walk the index on
    # state instead, dead entries included: 121 buffers per job instead of 8 over a drain. No index serves these guards.
    return (
        (jobs.c.id == job_id)
        & (cast(jobs.c.state, Text) == inline("'executing'"))
        & (jobs.c.attempt == attempt)
        & jobs.c.attempted_at.is_not_distinct_from(moment)
        & (jobs.c.attempted_by == cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text())))
    )


def _outcome(said: Any) -> dict[str, Any]:
    now = utc_clock()
    entry = error_entry(cast(said["attempt"], Integer), cast(said["error"], Text))
    wished = cast(said["state"], Text)
    # An attempt that ends just as its job is cancelled may not have heard of it; the job is not to run once more.
    called_off = wished.in_([inline("'retryable'"), inline("'scheduled'"), inline("'available'")]) & marked()
    state = case((called_off, inline("'cancelled'")), else_=wished)

    def moment_of(ended: str, name: str) -> ColumnElement[Any]:
        return case((state == inline(f"'{ended}'"), now), else_=jobs.c[name])

    return {
        "state": cast(state, jobs.c.state.type),
        "attempt": jobs.c.attempt - case((said["refund"], inline("1")), else_=inline("0")),
        "scheduled_at": case(
            (cast(said["delay"], Double).is_(None), jobs.c.scheduled_at), else_=seconds_later(now, said["delay"])
        ),
        "completed_at": moment_of("completed", "completed_at"),
        "cancelled_at": moment_of("cancelled", "cancelled_at"),
        "discarded_at": moment_of("discarded", "discarded_at"),
        # One object, never an array: `||` then appends it to jsonb[] and to a jsonb array alike.
        "errors": case((cast(said["error"], Text).is_(None), jobs.c.errors), else_=jobs.c.errors.op("||")(entry)),
        "meta": case(
            (cast(said["meta"], Text).is_(None), jobs.c.meta),
            else_=func.coalesce(jobs.c.meta, inline("'{}'::jsonb")).op("||")(cast(said["meta"], JSONB)),
        ),
    }


def error_entry(attempt: ColumnElement[Any], text: ColumnElement[Any]) -> ColumnElement[Any]:
    """An element of `errors`, to be appended with `||` whichever type the column has; `at` is the database's now."""
    return func.jsonb_build_object(
        inline("'at'"),
        func.to_char(utc_clock(), inline("""'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'""")),
        inline("'attempt'"),
        attempt,
        inline("'error'"),
        text,
        type_=JSONB,
    )
