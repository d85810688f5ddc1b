"""What has to be known of the table before jobs are copied into it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Select, Text, cast, column, func, select, table

from oban_sa.sql.expressions import utc_clock, utc_now

_columns = table("pg_attribute", *map(column, ("attrelid", "attname", "atttypid", "attnum")), schema="pg_catalog")
_types = table("pg_type", *map(column, ("oid", "typname")), schema="pg_catalog")


def layout(schema: str) -> Select[datetime, datetime, str | None]:
    """The transaction's `now`, the `clock`, and the type of each column of the table of jobs in `schema` as `columns`.

    These are a JSON object in a text, which is NULL where there is no such table.
    """
    types = (
        select(cast(func.json_object_agg(_columns.c.attname, _types.c.typname), Text))
        .select_from(_columns.join(_types, _types.c.oid == _columns.c.atttypid))
        .where(_columns.c.attrelid == func.to_regclass(func.quote_ident(schema) + ".oban_jobs"), _columns.c.attnum > 0)
    )
    return select(utc_now().label("now"), utc_clock().label("clock"), types.scalar_subquery().label("columns"))
