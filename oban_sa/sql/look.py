"""One look for all queues of a node: in which of them do jobs wait, and how large is the table by now."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Executable, Integer, Numeric, Text, case, cast, column, func, select
from sqlalchemy import table as named

from oban_sa.sql.expressions import array, inline, parameter
from oban_sa.sql.fetch import NOT_SPENT, jobs

_tables: Final = named("pg_class", column("oid"), column("reltuples"), column("relpages"), schema="pg_catalog")


def look(*, enough: int) -> Executable:
    """Look for jobs that wait: one row of `waiting`, those of the queues that have some, and `size`.

    The `size` is a whole number that changes where the table has become twice or half as large. It is 0 where the table
    has fewer than `enough` bytes, or was empty when it was last vacuumed. Jobs whose attempts are spent do not count,
    since no fetch takes them. Parameters: `queues`, an array, and `table`, the name of the jobs' table as `to_regclass`
    takes it.
    """
    # Not called "queue": in the subquery that would be the column of the jobs.
    asked = func.unnest(array("queues", Text())).column_valued("asked")
    waits = select(jobs.c.id).where(jobs.c.state == inline("'available'"), jobs.c.queue == asked, NOT_SPENT).exists()
    waiting: ColumnElement[object] = func.array(select(asked).where(waits).scalar_subquery())
    return select(waiting.label("waiting"), _size(enough).label("size"))


def _size(enough: int) -> ColumnElement[int]:
    size = func.pg_relation_size(_tables.c.oid)
    filled = (_tables.c.reltuples != inline("0")) | (_tables.c.relpages == inline("0"))
    doublings = cast(func.floor(func.log(inline("2"), cast(size, Numeric))), Integer)
    found = _tables.c.oid == func.to_regclass(parameter("table", Text()))
    kept = (size >= inline(str(enough))) & filled
    return select(case((kept, doublings), else_=inline("0"))).where(found).scalar_subquery()
