"""The values of references, put into args and meta of rows that were written before they were known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import BigInteger, Text, any_, bindparam, cast, column, func, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.jobs import values
from oban_sa.models import Job
from oban_sa.sql.notify import NOTIFY

_table: Final = Job.metadata.tables["public.oban_jobs"]
_resolved: Final = (
    func.jsonb_to_recordset(cast(bindparam("rows", type_=Text), JSONB))
    .table_valued(column("id", BigInteger), column("args", JSONB), column("meta", JSONB), name="resolved")
    .render_derived(name="resolved", with_types=True)
)

RESOLVE: Final = (
    update(_table)
    .where(_table.c.id == _resolved.c.id)
    # Says again which rows, because PostgreSQL takes any recordset for a hundred and would read a small table through.
    .where(_table.c.id == any_(cast(bindparam("ids", type_=Text), ARRAY(BigInteger))))
    .values({each: func.coalesce(_resolved.c[each.name], each) for each in (_table.c.args, _table.c.meta)})
)
"""Set args and meta of any number of jobs; `rows()` says which and to what."""

RESOLVE_AND_NOTIFY: Final = NOTIFY.add_cte(RESOLVE.returning(_table.c.id).cte("written"))
"""Both in one round trip, so that references cost a transaction none of its own."""


def rows(resolved: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return the parameters of `RESOLVE`: each of `resolved` has `id`, and `args`, `meta` or both."""
    listed = list(resolved)
    return {"rows": values.dumps(listed), "ids": "{" + ",".join(str(each["id"]) for each in listed) + "}"}
