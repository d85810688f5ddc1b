"""Places in the index on (state, queue, priority, scheduled_at, id), and the first jobs of several of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    FromClause,
    Integer,
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
from oban_sa.models.types import UTCDateTime
from oban_sa.sql.expressions import materialized
from oban_sa.sql.fetch import jobs
from oban_sa.sql.wanted import Cursor, Wanted, due, texts

_TRUE: Final[ColumnElement[bool]] = literal_column("true")
_MERGED: Final = 200
"""Places that a statement names by themselves."""
_FEW: Final = 1_000
"""Entries that are read of each place without a thought."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where jobs stand together in the index: one state, queue and priority."""

    state: JobState
    queue: str
    priority: int


def top_of(wanted: Wanted, among: Sequence[Place], *, window: int, oldest: bool, before: Cursor | None = None) -> CTE:
    """The first `window` jobs at these places, in the order of their moments: rows of `id` and `scheduled_at`."""
    of_each = _merged if window > _FEW and len(among) <= _MERGED else _looked_up
    each = of_each(wanted, among, window=window, oldest=oldest, before=before)
    first = (each.c.scheduled_at, each.c.id) if oldest else (each.c.scheduled_at.desc(), each.c.id.desc())
    return materialized(
        select(each.c.id, each.c.scheduled_at).order_by(*first).limit(literal(window, Integer())).cte("top")
        # Once it is known which they are, their rows are read, and no others.
    )


def _looked_up(
    wanted: Wanted, among: Sequence[Place], *, window: int, oldest: bool, before: Cursor | None
) -> FromClause:
    """The first `window` entries of each place: for few of them, or of very many places."""
    place = unnested(among)
    order = (jobs.c.scheduled_at, jobs.c.id) if oldest else (jobs.c.scheduled_at.desc(), jobs.c.id.desc())
    each = (
        select(jobs.c.id, jobs.c.scheduled_at)
        .where(*standing(place, wanted), *_after(before, oldest=oldest))
        .order_by(*order)
        .limit(literal(window, Integer()))
        .lateral("each_one")
    )
    return select(each.c.id, each.c.scheduled_at).select_from(place.join(each, _TRUE)).subquery("each_one")


def _merged(wanted: Wanted, among: Sequence[Place], *, window: int, oldest: bool, before: Cursor | None) -> FromClause:
    """The same, of places that are named one by one, and less of it where they stand side by side.

    The server merges what is in order, and stops after `window` of all places together, where by laterals it reads as
    many of each. The limit of each is what makes it see the order, and bounds what is read where it does not.
    """
    order = (jobs.c.scheduled_at, jobs.c.id) if oldest else (jobs.c.scheduled_at.desc(), jobs.c.id.desc())
    parts = [
        select(jobs.c.id, jobs.c.scheduled_at)
        .where(
            jobs.c.state == cast(literal(str(place.state), Text()), jobs.c.state.type),
            jobs.c.queue == literal(place.queue, Text()),
            jobs.c.priority == literal(place.priority, Integer()),
            *due(wanted, jobs.c.scheduled_at),
            *_after(before, oldest=oldest),
        )
        .order_by(*order)
        .limit(literal(window, Integer()))
        .subquery(f"place_{number}")
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


def standing(place: TableValuedAlias, wanted: Wanted) -> list[ColumnElement[bool]]:
    """That a job stands at one of the places, and is due when it is wanted to be."""
    return [
        jobs.c.state == cast(place.c.state, jobs.c.state.type),
        jobs.c.queue == cast(place.c.queue, Text),
        jobs.c.priority == cast(place.c.priority, Integer),
        *due(wanted, jobs.c.scheduled_at),
    ]


def _after(before: Cursor | None, *, oldest: bool) -> list[ColumnElement[bool]]:
    if before is None or before.scheduled_at is None:
        return []
    here = tuple_(jobs.c.scheduled_at, jobs.c.id)
    there = tuple_(literal(before.scheduled_at, UTCDateTime()), literal(before.id, BigInteger()))
    return [here > there if oldest else here < there]
