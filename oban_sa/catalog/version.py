"""Which version of our tables a schema has, as the comment of its table `oban_sa_queues` records it."""

from __future__ import annotations

import re
from typing import Final

from sqlalchemy import Connection, text

from oban_sa.catalog.names import OURS, quoted

LATEST: Final = 6
"""The newest version; what this release of oban_sa works with. `oban_sa.migrations.history` has all of them."""

RECORD: Final = "oban_sa_queues"
"""The table whose comment says `oban_sa <version>`."""

ADOPTED: Final = ", adopted"
"""Follows the version in the comment where another program made that table, so that it is never dropped."""


def installed(connection: Connection, schema: str = "public") -> int:
    """Return which version of our tables a schema has; 0 where it has none, tables of another Oban aside."""
    quoted(schema)  # raises InvalidOption
    return recorded(connection.scalar(_COMMENT, {"schema": schema, "table": RECORD}))


def recorded(comment: str | None) -> int:
    """Return the version that the comment of `RECORD` names; 0 where it names none."""
    found = re.fullmatch(rf"{OURS} (\d+)({ADOPTED})?", comment or "")
    return int(found[1]) if found else 0


# Not by to_regclass, which fails for a role without USAGE on the schema; the command explains that better later.
_COMMENT: Final = text(
    """
    SELECT obj_description(c.oid, 'pg_class')
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = CAST(:schema AS text) AND c.relname = CAST(:table AS text)
    """
)
