"""Write flows with their members and dependencies, and note what has become of members."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    SmallInteger,
    Table,
    Text,
    TextClause,
    Uuid,
    bindparam,
    cast,
    insert,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.durable import WAITS_FOR
from oban_sa.jobs.flow import ATTEMPT, ENDED, LANE, LANES
from oban_sa.models import Ending
from oban_sa.sql.expressions import inline

endings: Table = Ending.metadata.tables["public.oban_sa_endings"]

WAITS: Final = f"CAST(j.state AS text) = 'suspended' AND j.meta ->> '{WAITS_FOR}' IS NULL"
"""Whether the job `j` waits for other members. One that waits for a signal has begun, whatever becomes of others."""


def note(acked: CTE) -> CTE:
    """A `Follower`: leave a note for each member of a flow that will not run any more, or whose attempts are counted.

    Only inserts, and so waits for no other transaction.
    """
    lane = acked.c.meta.op("->>")(inline(f"'{LANE}'"))
    return (
        insert(endings)
        .from_select(
            ["lane", "job_id"],
            select(cast(lane, SmallInteger), acked.c.id).where(
                # Anybody may write anything into a job's meta, and what is no lane must not fail the statement.
                lane.op("~", is_comparison=True)(inline(f"'^[0-{LANES - 1}]$'")),
                or_(
                    acked.c.state.in_([literal_column(f"'{state}'") for state in ENDED]),
                    acked.c.meta.op("->>")(inline(f"'{ATTEMPT}'")).is_not(None),
                ),
            ),
        )
        .cte("noted")
    )


@cache
def any_noted() -> ColumnElement[bool]:
    """Whether there are notes that are not booked yet, so that jobs may be released."""
    return select(endings.c.id).exists()


@lru_cache(maxsize=16)
def write(schema: str) -> TextClause:
    """Insert flows, members, edges and gates, and a note for each flow that has no members.

    Each parameter is a JSON array of rows, as one text, which all drivers send alike.
    """
    s = in_text(schema)
    made = [f"{table} AS ({_insert(s, table, columns)})" for table, columns in _COLUMNS.items()]
    return text(f"WITH {', '.join(made)} SELECT 1").bindparams(*(bindparam(each, type_=Text()) for each in _COLUMNS))


@lru_cache(maxsize=16)
def claim(schema: str) -> TextClause:
    """Insert a flow that has a `unique_name`, unless one of that name is under way: a row of its `id`, or none.

    Where another transaction has just inserted one, it is waited for. Parameter: `flows`, an array of its row, as text.
    """
    s = in_text(schema)
    inserted = _insert(s, "flows", {**_COLUMNS["flows"], "unique_name": "text"})
    free = "ON CONFLICT (unique_name) WHERE unique_name IS NOT NULL AND completed_at IS NULL DO NOTHING"
    return text(f"{inserted} {free} RETURNING id").bindparams(bindparam("flows", type_=Text()))


@lru_cache(maxsize=16)
def stored(schema: str) -> TextClause:
    """Those of a flow's members that have some names: `name`, `job_id`. Parameters: `flow`, and `names`, an array."""
    return text(
        f"SELECT name, job_id FROM {in_text(schema)}.oban_sa_members "  # noqa: S608 - the name of the schema is quoted
        "WHERE flow_id = CAST(:flow AS uuid) AND name = ANY (CAST(:names AS text[]))"
    ).bindparams(bindparam("flow", type_=Uuid()), bindparam("names", type_=ARRAY(Text())))


def _insert(schema: str, table: str, columns: Mapping[str, str]) -> str:
    names, types = ", ".join(columns), ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    # All of it is written here, but for the name of the schema, which is quoted.
    return (
        f"INSERT INTO {schema}.oban_sa_{table} ({names}) "  # noqa: S608
        f"SELECT {names} FROM json_to_recordset(CAST(CAST(:{table} AS text) AS json)) AS x({types})"
    )


_COLUMNS: Final[dict[str, dict[str, str]]] = {
    "flows": {
        "id": "uuid",
        "root_id": "uuid",
        "path": "uuid[]",
        "kind": "text",
        "lane": "smallint",
        "name": "text",
        "total": "integer",
        "unfinished": "integer",
        "context": "jsonb",
        "callbacks": "jsonb",
        "meta": "jsonb",
    },
    "members": {"job_id": "bigint", "flow_id": "uuid", "name": "text", "waiting": "integer", "holds": "uuid[]"},
    "edges": {"parent_id": "bigint", "child_id": "bigint", "forgives": "smallint"},
    "gates": {"flow_id": "uuid", "child_id": "bigint", "forgives": "smallint"},
    "endings": {"lane": "smallint", "job_id": "bigint", "flow_id": "uuid"},
}
