"""How many jobs of a queue are started in a period: every start counts, and nothing is given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    Numeric,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline, materialized, parameter
from oban_sa.sql.fetch import Filter, Taken, jobs
from oban_sa.sql.functions import call

Whole: TypeAlias = ColumnElement[int]


def name_of(queue: str) -> str:
    """Return the name of the rate of a queue; those of limits outside of jobs never begin like that."""
    return f"queue:{queue}"


def left() -> ColumnElement[float]:
    """How many starts a rate has left, which is locked until the transaction ends; it waits for the lock.

    Parameters: `rate_name` and `rate_key`, `rate_n`, `rate_per` in seconds, `rate_algorithm` and `rate_burst`.
    """
    return _rate(cast(null(), BigInteger), cast(null(), Integer), cast(null(), DateTime))


def spend(count: Whole, *, wants: Whole, at: Expression) -> ColumnElement[float]:
    """Spend starts of a rate that `left` has locked, `at` a moment in UTC, not more than it has left.

    Returns the seconds until `wants` more may be spent, or NULL where they may be now. Parameters: those of `left`.
    """
    return _rate(cast(count, BigInteger), cast(wants, Integer), at)


def _rate(count: Whole, wants: Whole, at: Expression) -> ColumnElement[float]:
    return call(
        "oban_sa_rate",
        Double(),
        bindparam("rate_name", type_=Text()),
        bindparam("rate_key", "", type_=Text()),
        bindparam("rate_n", type_=Integer()),
        bindparam("rate_per", type_=Double()),
        bindparam("rate_algorithm", type_=Text()),
        bindparam("rate_burst", type_=Integer()),
        count,
        wants,
        at,
    )


def _look(before: CTE) -> CTE:
    return select(cast(left(), Integer).label("at_most")).select_from(before).cte("rate")


def _tell(done: Taken) -> Mapping[str, Expression]:
    started: Whole = select(func.count()).select_from(done.taken).scalar_subquery()
    return {"spent_for": spend(started, wants=literal_column("1", Integer()), at=done.room.c.at)}


RATE: Final = Filter(looks=(_look,), tells=(_tell,))
"""At most as many jobs of the queue are started as its rate has left.

Parameters: those of `left`. The moment of a start is its `attempted_at`.
"""


def weight_of(args: Expression, meta: Expression) -> Whole:
    """What a job counts: the whole number at the path `rate_weight`, from 1 to all that the rate has; else 1.

    Parameters: `rate_weight`, `rate_n` and `rate_burst`.
    """
    both = func.jsonb_build_object(inline("'args'"), args, inline("'meta'"), meta)
    found: Expression = type_coerce(both, JSONB()).op("#>")(array("rate_weight", Text()))
    number = case((func.jsonb_typeof(found) == inline("'number'"), cast(found, Numeric)), else_=inline("1"))
    whole = case((number == func.floor(number), number), else_=inline("1"))
    # Not more than there ever is: such a job waits until nothing else was started lately, and not for ever.
    most = func.coalesce(parameter("rate_burst", Integer()), parameter("rate_n", Integer()))
    return cast(func.least(func.greatest(whole, inline("1")), most), Integer)


def _affordable(picked: CTE, room: CTE) -> CTE:
    """Of the picked jobs, in their order, those whose weights together are not more than is left; others have no id."""
    ids = func.array(select(picked.c.id).scalar_subquery())
    weighed = materialized(
        select(jobs.c.id, weight_of(jobs.c.args, jobs.c.meta).label("weight"), jobs.c.priority, jobs.c.scheduled_at)
        .where(jobs.c.id == func.any(ids))
        .cte("weighed")
    )
    order = (weighed.c.priority, weighed.c.scheduled_at, weighed.c.id)
    # One that is too heavy for what is left holds up those behind it: else it would wait for as long as there are any.
    total = func.sum(weighed.c.weight).over(order_by=order)
    summed = select(weighed.c.id, weighed.c.weight, total.label("total")).subquery("summed")
    fits = summed.c.total <= select(room.c.left).scalar_subquery()
    return materialized(
        select(case((fits, summed.c.id)).label("id"), summed.c.weight, summed.c.total).cte("affordable")
    )


def _look_at_weights(before: CTE) -> CTE:
    found = select(cast(left(), Integer).label("left")).select_from(before).cte("rate_left")
    found = materialized(found)
    # Each job weighs at least 1.
    return select(found.c.left.label("at_most"), found.c.left).cte("rate")


def _tell_weights(done: Taken) -> Mapping[str, Expression]:
    picked = done.picked
    spent: Whole = func.coalesce(
        select(func.sum(picked.c.weight)).where(picked.c.id.is_not(None)).scalar_subquery(), inline("0")
    )
    first = select(picked.c.weight).where(picked.c.id.is_(None)).order_by(picked.c.total).limit(literal_column("1"))
    taken = select(func.count()).select_from(done.taken).scalar_subquery()
    waits = select(inline("1")).select_from(picked).where(picked.c.id.is_(None)).exists()
    return {
        "spent_for": spend(spent, wants=func.coalesce(first.scalar_subquery(), inline("1")), at=done.room.c.at),
        "granted": case((waits, taken), else_=done.room.c.granted),
    }


WEIGHTED: Final = Filter(looks=(_look_at_weights,), narrow=_affordable, tells=(_tell_weights,))
"""The same where jobs count more than 1: by a number in their args or meta.

Parameters: those of `left`, and `rate_weight`, an array that is a path such as `args`, `points`.
"""
