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
from oban_sa.sql.fetching import jobs


def condition_of(query: SelectBase) -> Select[Any] | None:
    """Return a SELECT of ids for `select(Job).where(...)` on nothing but jobs' own columns; None for any other."""
    if not isinstance(query, Select):
        return None
    bare: Any = cast("Any", query).order_by(None)
    condition = bare.whereclause
    ways: list[tuple[Any, ...]] = [() if condition is None else (condition,)]
    if isinstance(condition, BooleanClauseList):
        ways.append(tuple(condition.clauses))
    for what in (Job, Job.id, jobs, jobs.c.id):
        for way in ways:
            if _same(bare, select(what).where(*way)):
                plain = select(jobs.c.id).where(*way)
                return plain if condition_on_jobs(plain) is not None else None
    return None


def condition_on_jobs(wanted: Select[Any]) -> ColumnElement[bool] | None:
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


def unlimited(query: Any) -> SelectBase:
    """Return a SELECT without its order and limit, by which other jobs might come first when it is asked again."""
    asked: Any = query
    if not isinstance(query, Select) or asked._distinct or asked._group_by_clauses:
        return asked  # type: ignore[no-any-return]
    return asked.limit(None).offset(None).order_by(None)  # type: ignore[no-any-return]


def _same(one: Select[Any], other: Select[Any]) -> bool:
    try:
        return bool(one.compare(other))
    except AttributeError:  # SQLAlchemy can't compare an alias with a table; they are not the same
        return False


def _is_on_jobs(element: Any) -> bool:
    if isinstance(element, Column):
        table: Any = element.table
        return isinstance(table, Table) and table.key == jobs.key
    # A text may say anything.
    return not isinstance(element, (SelectBase, TextClause, ColumnClause))
