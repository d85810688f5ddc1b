"""The database's clock, in the form the tables keep: timestamps without zone, holding UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Double, cast, func, select, type_coerce

from oban_sa.sql.literals import inline

SECOND: ColumnElement[Any] = inline("interval '1 second'")


def utc_now() -> ColumnElement[datetime]:
    """The moment the transaction began; stable, so an index on a timestamp serves comparisons with it."""
    return func.timezone(inline("'UTC'"), func.now(), type_=DateTime())


def utc_clock() -> ColumnElement[datetime]:
    """This very moment, also late in a long transaction; volatile, so only for values that are written."""
    return func.timezone(inline("'UTC'"), func.clock_timestamp(), type_=DateTime())


BEGAN: Any = select(utc_now())
"""When the transaction began by the database's clock, as a naive datetime in UTC."""

CLOCK: Any = select(utc_clock())
"""What the database's clock shows, as a naive datetime in UTC."""


def seconds_later(moment: ColumnElement[datetime], seconds: ColumnElement[Any]) -> ColumnElement[datetime]:
    """`moment` moved by a number of seconds, which may be a fraction or negative."""
    return type_coerce(moment + cast(seconds, Double) * SECOND, DateTime())


def seconds_earlier(moment: ColumnElement[datetime], seconds: ColumnElement[Any]) -> ColumnElement[datetime]:
    """`moment` moved back by a number of seconds."""
    return type_coerce(moment - cast(seconds, Double) * SECOND, DateTime())


def seconds_between(earlier: ColumnElement[Any], later: ColumnElement[Any]) -> ColumnElement[float]:
    """Seconds from `earlier` to `later`, as a float: infinite where one of them is, which others may have written."""
    # Not of `later - earlier`: before version 17 PostgreSQL can't subtract infinite moments, nor any that lie further
    # apart than an interval is long, and one row that holds such a moment would fail the statement for all.
    return _epoch(later) - _epoch(earlier)


def _epoch(moment: ColumnElement[Any]) -> ColumnElement[float]:
    return func.date_part(inline("'epoch'"), moment, type_=Double())
