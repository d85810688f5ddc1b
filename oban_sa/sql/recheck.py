"""Which conditions PostgreSQL looks at again once it has locked a row that others changed.

Under READ COMMITTED a SELECT ... FOR UPDATE evaluates its own WHERE once more with the row as it was committed. What
that WHERE takes from elsewhere, from a subquery or another table, stays what it was when the statement began.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Column, ColumnElement, Select, Table, TextClause, and_, select, true
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BooleanClauseList, ColumnClause
from sqlalchemy.sql.selectable import SelectBase

from oban_sa.models import Job
from oban_sa.models.selects import is_distinct, is_grouped
from oban_sa.sql.fetch import jobs


def condition_of(query: SelectBase) -> Select[int] | None:
    """Return a SELECT of ids for `select(Job).where(...)` on nothing but jobs' own columns; None for any other."""
    if not isinstance(query, Select):
        return None
    bare: Any = cast("Any", query).order_by(None)
    condition = bare.whereclause
    ways: list[tuple[ColumnElement[bool], ...]] = [() if condition is None else (condition,)]
    if isinstance(condition, BooleanClauseList):
        ways.append(tuple(condition.clauses))
    for what in (Job, Job.id, jobs, jobs.c.id):
        for way in ways:
            if _same(bare, select(what).where(*way)):
                plain = select(jobs.c.id).where(*way)
                return plain if condition_on_jobs(plain) is not None else None
    return None


def condition_on_jobs(wanted: Select[int]) -> ColumnElement[bool] | None:
    """Return what a SELECT of ids wants where that is a condition on jobs' own columns; None where it is more."""
    condition = wanted.whereclause
    parts = () if condition is None else (condition,)
    if not _same(wanted, select(jobs.c.id).where(*parts)) and not (
        isinstance(condition, BooleanClauseList) and _same(wanted, select(jobs.c.id).where(*condition.clauses))
    ):
        return None
    if condition is None:
        return true()
    return and_(condition) if all(map(_is_on_jobs, visitors.iterate(condition))) else None


def unlimited(query: SelectBase) -> SelectBase:
    """Return a SELECT without its order and limit, by which other jobs might come first when it is asked again."""
    if not isinstance(query, Select):
        return query
    asked = cast("Select[object]", query)
    return asked if is_distinct(asked) or is_grouped(asked) else asked.limit(None).offset(None).order_by(None)


def _same(one: SelectBase, other: SelectBase) -> bool:
    try:
        return one.compare(other)
    except AttributeError:  # SQLAlchemy can't compare an alias with a table; they are not the same
        return False


def _is_on_jobs(element: object) -> bool:
    if isinstance(element, Column):
        table: Any = element.table
        return isinstance(table, Table) and table.key == jobs.key
    # A text may say anything.
    return not isinstance(element, (SelectBase, TextClause, ColumnClause))
