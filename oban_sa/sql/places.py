"""Places in the index on (state, queue, priority, scheduled_at, id), and the first jobs of several of them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    TableValuedAlias,
    Text,
    cast,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.jobs.states import JobState
from oban_sa.models.base import Expression
from oban_sa.models.types import UTCDateTime
from oban_sa.sql.expressions import materialized
from oban_sa.sql.fetch import jobs
from oban_sa.sql.wanted import Cursor, Wanted, due, texts

_TRUE: Final[ColumnElement[bool]] = literal_column("true")
_MERGED: Final = 200
"""Places that a statement names by themselves."""
_FEW: Final = 1_000
"""Entries that are read of each place without a thought."""

_First: TypeAlias = "Callable[[Expression, Expression, Expression], Select[int, datetime]]"
"""Makes of a state, a queue and a priority the SELECT of the first entries there: `id` and `scheduled_at`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs stand together in the index: one state, queue and priority."""

    state: JobState
    queue: str
    priority: int


def top_of(wanted: Wanted, among: Sequence[Place], *, window: int, oldest: bool, before: Cursor | None = None) -> CTE:
    """The first `window` jobs at these places, in the order of their moments: rows of `id` and `scheduled_at`."""
    of_each = _merged if window > _FEW and len(among) <= _MERGED else _looked_up

    def first(state: Expression, queue: Expression, priority: Expression) -> Select[int, datetime]:
        return (
            select(jobs.c.id, jobs.c.scheduled_at)
            .where(*standing(state, queue, priority, wanted), *_after(before, oldest=oldest))
            .order_by(*by_moment(jobs.c, oldest=oldest))
            .limit(literal(window, Integer()))
        )

    each = of_each(among, first)
    order = by_moment(each.c, oldest=oldest)
    return materialized(
        select(each.c.id, each.c.scheduled_at).order_by(*order).limit(literal(window, Integer())).cte("top")
        # Once it is known which they are, their rows are read, and no others.
    )


def _looked_up(among: Sequence[Place], first: _First) -> FromClause:
    """The first entries of each place: for few of them, or of very many places."""
    place = unnested(among)
    each = first(place.c.state, place.c.queue, place.c.priority).lateral("each_one")
    return select(each.c.id, each.c.scheduled_at).select_from(place.join(each, _TRUE)).subquery("each_one")


def _merged(among: Sequence[Place], first: _First) -> FromClause:
    """The same, of places that are named one by one, and less of it where they stand side by side.

    The server merges what is in order, and stops after as many of all places together, where by laterals it reads as
    many of each. The limit of each is what makes it see the order, and bounds what is read where it does not.
    """
    parts = [
        first(
            literal(str(place.state), Text()), literal(place.queue, Text()), literal(place.priority, Integer())
        ).subquery(f"place_{number}")
        for number, place in enumerate(among)
    ]
    return union_all(*(select(part.c.id, part.c.scheduled_at) for part in parts)).subquery("each_one")


def unnested(among: Sequence[Place]) -> TableValuedAlias:
    """The places as rows of `state`, `queue` and `priority`."""
    # Whole columns, each an array: a statement of as many parameters as there are places has a limit.
    return (
        func.unnest(
            texts([str(each.state) for each in among]),
            texts([each.queue for each in among]),
            cast(literal([each.priority for each in among], ARRAY(Integer())), ARRAY(Integer())),
        )
        .table_valued("state", "queue", "priority", name="place")
        .render_derived()
    )


def standing(state: Expression, queue: Expression, priority: Expression, wanted: Wanted) -> list[ColumnElement[bool]]:
    """That a job stands at a place, and is due when it is wanted to be."""
    return [
        jobs.c.state == cast(state, jobs.c.state.type),
        jobs.c.queue == cast(queue, Text),
        jobs.c.priority == cast(priority, Integer),
        *due(wanted, jobs.c.scheduled_at),
    ]


def by_moment(of: Any, *, oldest: bool) -> tuple[Expression, Expression]:
    """The order of jobs by the moments they are due, the last first, or with `oldest` the first.

    `of` has them as `scheduled_at` and `id`: columns, or an entity.
    """
    return (of.scheduled_at, of.id) if oldest else (of.scheduled_at.desc(), of.id.desc())


def _after(before: Cursor | None, *, oldest: bool) -> list[ColumnElement[bool]]:
    if before is None or before.scheduled_at is None:
        return []
    here = tuple_(jobs.c.scheduled_at, jobs.c.id)
    there = tuple_(literal(before.scheduled_at, UTCDateTime()), literal(before.id, BigInteger()))
    return [here > there if oldest else here < there]
