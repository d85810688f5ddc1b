"""Insert the jobs of a query that are unique: the claim of their keys is part of the statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Double,
    Executable,
    FromClause,
    Integer,
    Text,
    cast,
    func,
    literal,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, materialized
from oban_sa.sql.fetch import jobs
from oban_sa.sql.insert import COLUMNS, insert_with_ids, recordset, text, with_state
from oban_sa.sql.unique import claim, key, marked


def inserting_unique(rows: FromClause, columns: Mapping[str, Expression], unique: Unique) -> Executable:
    """Claim the keys of a job for each of `rows`, in their order, and insert those that get them: one row.

    `columns` are those of `insert.inserting`; their meta has what `Unique.marked` adds without a key. Of several rows
    with one key the first may become a job, whatever `unique` says of its state and period. The answer has, as JSON
    texts, `made`, which is `[queue, number, whether any is available]` for each queue, and `lost`: the columns of jobs
    whose keys another transaction has committed meanwhile; insert those by `inserting_again`. `rows` is how many there
    were.
    """
    chosen = with_state(columns)
    numbered: list[Expression] = [chosen[name].label(name) for name in COLUMNS]
    numbered.append(func.row_number().over().label("number"))
    wanted = materialized(select(*numbered).select_from(rows).cte("wanted_jobs"))
    terms = unique.terms
    relation: list[Expression] = [
        cast(wanted.c.number, Integer).label("number"),
        key(
            _json(unique.scope),
            worker=wanted.c.worker,
            queue=wanted.c.queue,
            args=wanted.c.args,
            meta=wanted.c.meta,
        ).label("key"),
        cast(null(), BigInteger).label("id"),
        _json(terms["states"]).label("states"),
        cast(literal(unique.seconds, Double), Double).label("period"),
        cast(literal(unique.joins, Boolean), Boolean).label("joins"),
        wanted.c.scheduled_at,
    ]
    claimed = claim(select(*relation).select_from(wanted), locks=unique.locks)
    held, winners = claimed.held, claimed.winners.cte("winners")
    written = [name for name in COLUMNS if name != "meta"]
    winning: list[Expression] = [wanted.c[name] for name in written]
    winning += [marked(wanted.c.meta, winners.c.key), winners.c.id]
    made = (
        insert_with_ids(
            [*written, "meta", "id"],
            select(*winning)
            .select_from(wanted.join(winners, winners.c.number == wanted.c.number))
            .order_by(winners.c.id),
        )
        .returning(jobs.c.queue, jobs.c.state)
        .cte("made")
    )
    available = func.bool_or(made.c.state == cast(inline(f"'{JobState.AVAILABLE}'"), jobs.c.state.type))
    queues = select(func.json_build_array(made.c.queue, func.count(), available).label("each")).group_by(made.c.queue)
    each = queues.subquery("queues")
    again = (
        select(*(wanted.c[name] for name in _KEPT))
        .select_from(wanted.join(held, held.c.number == wanted.c.number))
        .where(held.c.blocker.is_(None), wanted.c.number.not_in(select(winners.c.number)))
        .order_by(wanted.c.number)
        .subquery("again")
    )
    count = select(func.count()).select_from(wanted).scalar_subquery()
    return select(
        count.label("rows"),
        select(cast(func.json_agg(each.c["each"]), Text)).scalar_subquery().label("made"),
        select(cast(func.json_agg(func.row_to_json(again.table_valued())), Text)).scalar_subquery().label("lost"),
    )


def inserting_again(unique: Unique) -> Executable:
    """The same for what `inserting_unique` has lost. Parameter: `rows`, a JSON array of it."""
    each = recordset(_KEPT)
    return inserting_unique(each, {name: each.c[name] for name in _KEPT}, unique)


_KEPT: Final[Mapping[str, object]] = {
    "worker": Text,
    "queue": Text,
    "args": JSONB,
    "meta": JSONB,
    "tags": ARRAY(Text),
    "max_attempts": Integer,
    "priority": Integer,
    "scheduled_at": DateTime,
}


def _json(value: object) -> Expression:
    return cast(text(values.dumps(value)), JSONB)
