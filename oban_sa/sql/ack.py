"""Write what became of attempts, fenced: only the attempt that holds a job may say how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Final

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
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import TypeEngine

from oban_sa.jobs import values
from oban_sa.jobs.verdicts import Verdict
from oban_sa.models.base import Expression
from oban_sa.sql.cancel_request import marked
from oban_sa.sql.expressions import array, inline, parameter, seconds_later, unnest, utc_clock
from oban_sa.sql.fence import by_holder, fence, still_held
from oban_sa.sql.fetch import jobs
from oban_sa.sql.followers import Follower, changed_columns, follow


def _meta(verdict: Verdict) -> str | None:
    return None if verdict.meta is None else values.dumps(verdict.meta)


_VERDICT: Final[dict[str, tuple[TypeEngine[Any], Callable[[Verdict], object]]]] = {
    "id": (BigInteger(), attrgetter("job_id")),
    "attempt": (Integer(), attrgetter("attempt")),
    "state": (Text(), attrgetter("state.value")),
    "delay": (Double(), attrgetter("delay")),
    "error": (Text(), attrgetter("error")),
    "meta": (Text(), _meta),
    "refund": (Boolean(), attrgetter("refund")),
    "attempted_at": (DateTime(timezone=True), attrgetter("attempted_at")),
}
"""What is said of an attempt: the type of each column, and its value for a verdict."""


def ack(followers: Sequence[Follower] = ()) -> Executable:
    """The ids of the jobs whose outcome was written; the others' attempts no longer held their jobs.

    Parameters: `holder`, and those of `as_arrays`.
    """
    acked = write(followers)
    return follow(select(acked.c.id), acked, followers)


def write(followers: Sequence[Follower] = ()) -> CTE:
    """The ack as a data-modifying CTE; it returns what the `followers` read."""
    said = unnest(**{name: type_ for name, (type_, _) in _VERDICT.items()})
    return _update(
        still_held(said.c.id, said.c.attempt, said.c.attempted_at), _outcome(dict(said.c.items())), followers
    )


def as_arrays(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """The parameters of `write`: for each column an array with its name in the plural, in the order of the verdicts."""
    return {f"{name}s": list(map(value, verdicts)) for name, (_, value) in _VERDICT.items()}


def write_completed(followers: Sequence[Follower] = ()) -> CTE:
    """The same where every attempt is completed and nothing else is said of it, for a tenth less work.

    Attempts that were fetched at once differ in nothing but their jobs. So what the fence asks for stands once for all
    of them, in the arrays `fence_attempts` and `fence_moments`; each job says which of their elements is its own.
    Parameters: `holder`, and those of `as_completed`.
    """
    said = unnest(id=BigInteger(), fence=Integer())
    attempt = Grouping(array("fence_attempts", Integer()))[said.c.fence]
    moment = Grouping(array("fence_moments", DateTime()))[said.c.fence]
    completed: dict[str, Expression] = {"state": inline("'completed'"), "completed_at": utc_clock()}
    return _update(fence(said.c.id, attempt, moment), completed, followers)


def as_completed(verdicts: Sequence[Verdict]) -> dict[str, object]:
    """The parameters of `write_completed`: `ids`, and for each in `fences` which fence is its own, from 1 on."""
    ids: list[int] = []
    fences: list[int] = []
    attempts: list[int] = []
    moments: list[datetime | None] = []
    attempt, moment = 0, None
    for verdict in verdicts:
        # By identity: attempts that were fetched at once share the object.
        if verdict.attempted_at is not moment or verdict.attempt != attempt or not moments:
            attempt, moment = verdict.attempt, verdict.attempted_at
            attempts.append(attempt)
            moments.append(None if moment is None else moment.astimezone(UTC).replace(tzinfo=None))
        ids.append(verdict.job_id)
        fences.append(len(moments))
    return {"ids": ids, "fences": fences, "fence_attempts": attempts, "fence_moments": moments}


def ack_one(followers: Sequence[Follower] = ()) -> Executable:
    """The ack of one attempt inside a session's own transaction: its `id` and the transaction's number, `xid`.

    No row means that the attempt no longer holds its job. Parameters: those of `said`.
    """
    given: dict[str, Expression] = {name: bindparam(_said(name), type_=type_) for name, (type_, _) in _VERDICT.items()}
    changed = (
        update(jobs)
        .where(still_held(given["id"], given["attempt"], given["attempted_at"]))
        .values(_outcome(given))
        .execution_options(synchronize_session=False)
    )
    xid = func.txid_current().label("xid")
    if not followers:
        return changed.returning(jobs.c.id, xid)
    acked = changed.returning(*changed_columns()).cte("acked")
    return follow(select(acked.c.id, xid), acked, followers)


def said(verdict: Verdict) -> dict[str, object]:
    """The parameters of `ack_one`."""
    given = {_said(name): value(verdict) for name, (_, value) in _VERDICT.items()}
    return {"holder": list(verdict.holder), **given}


def _said(name: str) -> str:
    # SQLAlchemy takes a parameter that is named like a column of an UPDATE for a value of that column.
    return "job_id" if name == "id" else f"said_{name}"


def note_error() -> Update:
    """Keep the error of an attempt whose job was set `cancelled` while it ran, as Elixir's nodes do at once.

    One row where it is kept, also where it was before; no row where the job is anything else. Parameters: `job_id`,
    `of_attempt`, `holder`, `text`, and `moments`, naive, in UTC: what the row may have as `attempted_at`.
    """
    attempt = parameter("of_attempt", Integer())
    entry = error_entry(attempt, parameter("text", Text()))
    same = func.jsonb_build_array(func.jsonb_build_object(inline("'attempt'"), attempt))
    known = func.to_jsonb(jobs.c.errors).op("@>", is_comparison=True)(same)
    return (
        update(jobs)
        .where(
            jobs.c.id == bindparam("job_id", type_=BigInteger()),
            cast(jobs.c.state, Text) == inline("'cancelled'"),
            jobs.c.attempt == attempt,
            jobs.c.attempted_at == func.any(array("moments", DateTime())),
            by_holder(),
        )
        .values(errors=case((known, jobs.c.errors), else_=jobs.c.errors.op("||")(entry)))
        .returning(jobs.c.id)
    )


def _update(held: ColumnElement[bool], outcome: Mapping[str, Expression], followers: Sequence[Follower]) -> CTE:
    # Twice by id: whichever way the rows and what is said of them are joined, no other row is ever looked at.
    changed = update(jobs).where(jobs.c.id == func.any(array("ids", BigInteger())), held).values(outcome)
    return changed.returning(*(changed_columns() if followers else [jobs.c.id])).cte("acked")


def _outcome(said: Mapping[str, Expression]) -> dict[str, Expression]:
    now = utc_clock()
    entry = error_entry(cast(said["attempt"], Integer), cast(said["error"], Text))
    wished = cast(said["state"], Text)
    # An attempt that ends just as its job is cancelled may not know of that; the job is not to run once more.
    called_off = wished.in_([inline("'retryable'"), inline("'scheduled'"), inline("'available'")]) & marked()
    state = case((called_off, inline("'cancelled'")), else_=wished)

    def moment_of(ended: str, name: str) -> ColumnElement[datetime]:
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


def error_entry(attempt: ColumnElement[int], text: ColumnElement[str]) -> Expression:
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
