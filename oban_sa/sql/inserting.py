"""Many jobs at once, without objects: what COPY takes, and the same by an INSERT where COPY can't be used."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    DateTime,
    Integer,
    Text,
    bindparam,
    cast,
    column,
    func,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.sql.fetching import jobs
from oban_sa.sql.moments import utc_now

COLUMNS: Final = ("worker", "queue", "state", "args", "meta", "tags", "max_attempts", "priority", "scheduled_at")
"""What a job that was never tried consists of; defaults fill the rest, whoever made the table."""

_TYPES: Final[dict[str, Any]] = {
    "worker": Text(),
    "queue": Text(),
    "state": Text(),
    "args": JSONB(),
    "meta": JSONB(),
    "tags": ARRAY(Text()),
    "max_attempts": Integer(),
    "priority": Integer(),
    "scheduled_at": DateTime(),
}


def inserting() -> Any:
    """Insert any number of jobs in their order; a NULL `scheduled_at` is now.

    Parameter: `rows`, a JSON array of objects with the keys of `COLUMNS`, as text, which every driver can send.
    """
    rows = (
        func.jsonb_to_recordset(cast(bindparam("rows", type_=Text()), JSONB))
        .table_valued(*(column(name, type_) for name, type_ in _TYPES.items()), name="made")
        .render_derived(name="made", with_types=True)
    )
    moment = func.coalesce(rows.c.scheduled_at, utc_now())
    chosen = {
        **{name: rows.c[name] for name in COLUMNS},
        "state": cast(rows.c.state, jobs.c.state.type),
        "scheduled_at": moment,
    }
    return insert(jobs).from_select(list(COLUMNS), select(*(chosen[name] for name in COLUMNS)))
