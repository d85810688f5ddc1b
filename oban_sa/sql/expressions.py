"""Constants, and the database's clock in the form the tables keep: timestamps without zone, holding UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    CTE,
    ColumnElement,
    DateTime,
    Double,
    Select,
    TableValuedAlias,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

T = TypeVar("T")


def inline(sql: str) -> ColumnElement[object]:
    """Write a constant into the statement instead of binding it: even a generic plan knows its value then."""
    return literal_column(sql)


def parameter(name: str, type_: TypeEngine[T]) -> ColumnElement[T]:
    """A parameter whose type the statement says, where nothing beside it does."""
    return cast(bindparam(name, type_=type_), type_)


def array(name: str, type_: TypeEngine[T]) -> ColumnElement[Sequence[T]]:
    """A parameter that is an array of values of a type."""
    return parameter(name, ARRAY(type_))


def unnest(**types: TypeEngine[Any]) -> TableValuedAlias:
    """Rows `said`, given as a parameter for each column: an array with the name of the column in the plural."""
    arrays = [array(f"{name}s", type_) for name, type_ in types.items()]
    columns = [column(name, type_) for name, type_ in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived("said")


def materialized(cte: CTE) -> CTE:
    """Have a CTE run once, also where the planner could make it part of what reads it."""
    return cte.prefix_with("MATERIALIZED", dialect="postgresql")


SECOND = inline("interval '1 second'")


def utc_now() -> ColumnElement[datetime]:
    """The moment the transaction began; stable, so an index on a timestamp serves comparisons with it."""
    return func.timezone(inline("'UTC'"), func.now(), type_=DateTime())


def utc_clock() -> ColumnElement[datetime]:
    """This very moment, also late in a long transaction; volatile, so only for values that are written."""
    return func.timezone(inline("'UTC'"), func.clock_timestamp(), type_=DateTime())


BEGAN: Select[datetime] = select(utc_now())
"""When the transaction began by the database's clock, as a naive datetime in UTC."""

CLOCK: Select[datetime] = select(utc_clock())
"""What the database's clock shows, as a naive datetime in UTC."""


def seconds_later(moment: ColumnElement[datetime], seconds: ColumnElement[float]) -> ColumnElement[datetime]:
    """`moment` moved by a number of seconds, which may be a fraction or negative."""
    return type_coerce(moment + cast(seconds, Double) * SECOND, DateTime())


def seconds_earlier(moment: ColumnElement[datetime], seconds: ColumnElement[float]) -> ColumnElement[datetime]:
    """`moment` moved back by a number of seconds."""
    return type_coerce(moment - cast(seconds, Double) * SECOND, DateTime())


def seconds_between(earlier: ColumnElement[datetime], later: ColumnElement[datetime]) -> ColumnElement[float]:
    """Seconds from `earlier` to `later`, as a float: infinite where one of them is, which others may have written."""
    # Not of `later - earlier`: before version 17 PostgreSQL can't subtract infinite moments, nor any that lie further
    # apart than an interval is long, and one row that holds such a moment would fail the statement for all.
    return _epoch(later) - _epoch(earlier)


def _epoch(moment: ColumnElement[datetime]) -> ColumnElement[float]:
    return func.date_part(inline("'epoch'"), moment, type_=Double())
