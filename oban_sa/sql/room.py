"""The order in which a fetch within limits does its work: ack, lock, look, pick, spend, tell.

A fetch that has picked rows never waits for anything. `SKIP LOCKED` locks the newest version of a row before it finds
that the job is executing elsewhere by now, and keeps that lock: were the fetch to wait for another lock then, it would
wait for the fetch whose ack waits for this row. So all locks are taken before the first row is picked, and all outcomes
are written before that:

    acked ──> done ──> look ──> look ──> room ──> picked ──> (narrowed) ──> taken ──> told

Each of these is a CTE, and reads the one before it, which is what makes PostgreSQL run them in this order:

- `done` has one row once the outcomes of the same statement are written.
- A look makes of the CTE before it, which has one row, a CTE of one row with `at_most`: how many jobs may be taken, an
  integer or NULL. One of them may have `left` as well, a number that `room` has then. It calls a volatile function on
  the row that it reads. Only such a function sees what others have committed since the statement began, and what this
  statement has done: every CTE sees the tables as they were before. Looks wait for locks, each always for the same ones
  in the same order; so do the looks of different filters, since the filters of limits stand in one order in each plan
  (`oban_sa.sql.limits`).
- `room` has one row: `granted`, how many jobs are picked at most, and `at`, the moment at which they are begun, read
  after the locks were taken.
- A `pick` locks jobs, and never waits: see `Asked` and `Picked`. One filter has one at most; without it the first
  available jobs are picked. `narrow` makes of the picked jobs and of `room` a CTE of the `id` of those that are taken,
  which is NULL for others.
- `tells` are made of what was `Taken`, and return what the answer says of the limits: of some names of `TOLD` the
  value, one each. They are run once and after all jobs were taken, so this is where functions are called that spend.

The answer has one more row, which has `granted` and the others of `TOLD` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    Select,
    Text,
    bindparam,
    cast,
    func,
    null,
    select,
    union_all,
)
from sqlalchemy.sql.selectable import SelectBase
from sqlalchemy.types import TypeEngine

from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, materialized, utc_clock
from oban_sa.sql.fetch import FETCHED, NOT_SPENT, Asked, Filter, Taken, begin, of_producer, pick, then

TOLD: Final[Mapping[str, TypeEngine[int] | TypeEngine[float] | TypeEngine[str]]] = {
    "granted": Integer(),
    "spent_for": Double(),
    "next_in": Double(),
    "skipped": Integer(),
    "last_key": Text(),
}
"""What the last row of an answer says.

`granted`: how many jobs might have been taken; fewer were only if no more were found. `spent_for`: for how many seconds
no job of the queue can be taken, NULL where some can. `next_in`: after how many seconds jobs may be taken that were
passed over, NULL where none was or it is not known. `skipped`: how many keys were passed over since another fetch had
them locked, and of others that may have jobs. `last_key`: where the next walk from key to key begins, as it
is given back to the next fetch.
"""


class Within(NamedTuple):
    """A fetch within limits: the CTE `taken`, and the row that tells of it, of the columns of `TOLD`."""

    taken: CTE
    told: CTE


def are_limits(filters: Sequence[Filter]) -> bool:
    """Whether a fetch with these filters is one within limits."""
    return any(each.limits for each in filters)


def fetch_within(filters: Sequence[Filter], acked: CTE | None = None) -> Select[*tuple[object, ...]]:
    """Take jobs of one queue within limits, once the outcomes of `acked` are written.

    Rows of `FETCHED`, `acked` and `TOLD`: of one job, of one outcome, or the last row. Parameters are those of `fetch`.
    """
    taken, told = within(filters, acked)
    no_job = [null().label(name) for name in FETCHED]
    nothing_told = [cast(null(), type_).label(name) for name, type_ in TOLD.items()]
    no_ack = cast(null(), BigInteger).label("acked")
    branches: list[SelectBase] = [select(*(taken.c[name] for name in FETCHED), no_ack, *nothing_told)]
    if acked is not None:
        branches.append(select(*no_job, acked.c.id, *nothing_told))
    branches.append(select(*no_job, no_ack, *(told.c[name] for name in TOLD)))
    return then(select(union_all(*branches).subquery("cycle")), taken, filters)


def within(filters: Sequence[Filter], acked: CTE | None) -> Within:
    """Look, pick and begin; see the top of this file."""
    room = _room(filters, acked)
    granted = select(room.c.granted).scalar_subquery()
    told: dict[str, Expression] = {}
    picks = [each.pick for each in filters if each.pick is not None]
    if picks:
        [picking] = picks
        conditions = (condition for each in filters for condition in each.conditions)
        picked, tells = picking(Asked((NOT_SPENT, *conditions), room, any(each.leaves for each in filters)))
        told.update(tells)
    else:
        picked = pick(of_producer(), filters, granted)
    for each in filters:
        if each.narrow is not None:
            picked = each.narrow(picked, room)
    taken = begin(picked, select(room.c.at).scalar_subquery())
    for each in filters:
        for tell in each.tells:
            for name, value in tell(Taken(taken, room, picked)).items():
                # The key of a partition that was passed over may have its turn before those of which jobs were taken.
                told[name] = func.least(told[name], value) if name == "next_in" and name in told else value
    told = {"granted": room.c.granted, **told}
    columns = [cast(told.get(name, null()), type_).label(name) for name, type_ in TOLD.items()]
    return Within(taken, materialized(select(*columns).select_from(room).cte("told")))


def _room(filters: Sequence[Filter], acked: CTE | None) -> CTE:
    done = select(inline("0").label("n")) if acked is None else select(func.count(acked.c.id).label("n"))
    looks: list[CTE] = [materialized(done.cte("done"))]
    for each in filters:
        for look in each.looks:
            looks.append(materialized(look(looks[-1])))
    most: ColumnElement[int] = bindparam("demand", type_=Integer())
    bounds: list[ColumnElement[int]] = [select(each.c.at_most).scalar_subquery() for each in looks[1:]]
    bounds += [each.at_most for each in filters if each.at_most is not None]
    if bounds:
        most = func.greatest(func.least(most, *bounds), inline("0"))
    # From the last look, whose row is there once all locks are taken: the moment is read after that.
    columns: list[Expression] = [cast(most, Integer).label("granted"), utc_clock().label("at")]
    columns += [select(each.c.left).scalar_subquery().label("left") for each in looks if "left" in each.c]
    return materialized(select(*columns).select_from(looks[-1]).cte("room"))
