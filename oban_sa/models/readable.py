"""Columns as they are read, so that a value that Python can't hold in one row doesn't hide all the others.

A driver reads a whole result or none of it. What Python has no value for is therefore changed in the database, among
the columns that a statement returns; everywhere else in it a column stays as it is.
"""

from typing import Any, Final

from sqlalchemy import CompoundSelect, Text, cast, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnClause, ColumnElement, Label
from sqlalchemy.sql.functions import FunctionElement, max, min  # noqa: A004 - SQL's
from sqlalchemy.types import TypeEngine

from oban_sa.models.base import Expression
from oban_sa.models.selects import is_distinct, is_ordered

EARLIEST: Final = "timestamp '0001-01-01 00:00:00'"
LATEST: Final = "timestamp '9999-12-31 23:59:59.999999'"
"""The first and the last moment that Python knows, in SQL: `datetime.min` and `datetime.max`, in UTC."""


class readable(FunctionElement[Any]):  # noqa: N801 - named as what it is in a statement
    """A `timestamp` that Python can hold: one before the year 1 or after 9999, or infinite, is the nearest it knows."""

    inherit_cache = True
    name = "readable"

    def __init__(self, moment: Expression, type_: TypeEngine[Any]) -> None:
        super().__init__(moment)
        self.type = type_


@compiles(readable)
def _render_readable(element: readable, compiler: SQLCompiler, **kw: object) -> str:
    moment = compiler.process(element.clauses.clauses[0], **kw)
    return f"CASE WHEN {moment} > {LATEST} THEN {LATEST} WHEN {moment} < {EARLIEST} THEN {EARLIEST} ELSE {moment} END"


def strange(moment: Expression) -> ColumnElement[bool]:
    """Whether a moment is one that no clock says: infinite, or before the year 1 or after 9999."""
    return _Strange(moment)


class _Strange(FunctionElement[bool]):
    inherit_cache = True
    name = "strange"


@compiles(_Strange)
def _render_strange(element: _Strange, compiler: SQLCompiler, **kw: object) -> str:
    return f"({compiler.process(element.clauses.clauses[0], **kw)} NOT BETWEEN {EARLIEST} AND {LATEST})"


def column_read(column: Expression, changed: Expression, type_: TypeEngine[Any]) -> Expression:
    """Return `changed` where `column` is one of a table, or its least or greatest value; else `column`.

    What else has the type of a column may be anything, such as a subquery, that is not to be written twice.
    """
    named = column.element if isinstance(column, Label) else column
    if not isinstance(named, (ColumnClause, min, max)):
        return column
    return _Read(named, changed, type_, same_type=isinstance(changed, readable))


class _Read(FunctionElement[Any]):
    """A column among those that a statement answers, and what it is changed into."""

    inherit_cache = True
    name = "read"

    def __init__(self, column: Expression, changed: Expression, type_: TypeEngine[Any], *, same_type: bool) -> None:
        super().__init__(column, changed)
        self.type = type_
        self.same_type = same_type
        """Whether it is of the same type in the database."""


@compiles(_Read)
def _render_read(element: _Read, compiler: SQLCompiler, **kw: object) -> str:
    plain, changed = element.clauses.clauses
    return compiler.process(plain if _is_plain(element, compiler) else changed, **kw)


def _is_plain(element: _Read, compiler: SQLCompiler) -> bool:
    # What an INSERT answers was written just now.
    if compiler.isinsert:
        return True
    around: list[object] = [entry.get("selectable") for entry in compiler.stack]
    # The SELECTs of a UNION have to answer the same types, and what another of them answers may be plain.
    if not element.same_type and any(isinstance(each, CompoundSelect) for each in around):
        return True
    # PostgreSQL sorts what is DISTINCT only by what is answered.
    inner = around[-1] if around else None
    return is_distinct(inner) and is_ordered(inner)


def text_of(column: Expression) -> Expression:
    """JSON as text, which every driver brings as it is; what they make of JSON themselves differs, and may fail."""
    return cast(column, Text)


def array_text_of(column: Expression) -> Expression:
    """The same of `jsonb` and of `jsonb[]` alike."""
    return cast(func.to_jsonb(column), Text)
