"""The versions in order, and which of them a database has; it is kept in the comment of the table `oban_sa_queues`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol, cast

from alembic.operations import Operations
from sqlalchemy import Connection, text

from oban_sa.migrations import ddl
from oban_sa.migrations.versions import v01_everything

RECORD: Final = "oban_sa_queues"
"""The table whose comment says `oban_sa <version>`."""

ADOPTED: Final = ", adopted"
"""What stands behind the version where another program made that table, so that it is never dropped."""


class Version(Protocol):
    """A step: `up` makes it, `down` takes it back; both may run again."""

    __name__: str
    up: Callable[[Operations, str], None]
    down: Callable[[Operations, str], None]


VERSIONS: Final = cast("tuple[Version, ...]", (v01_everything,))
LATEST: Final = len(VERSIONS)
"""The newest version; what this release of oban_sa works with."""


def installed(connection: Connection, schema: str = "public") -> int:
    """Return which version of our tables a schema has; 0 where it has none, whatever another Oban made there."""
    ddl.quoted(schema)  # refuses what is no name
    comment = connection.scalar(_COMMENT, {"schema": schema, "table": RECORD})
    recorded = re.fullmatch(rf"{ddl.OURS} (\d+)({ADOPTED})?", comment or "")
    return int(recorded[1]) if recorded else 0


# No to_regclass: it fails for a role that may not use the schema, which is better said in words.
_COMMENT: Final = text(
    """
    SELECT obj_description(c.oid, 'pg_class')
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = CAST(:schema AS text) AND c.relname = CAST(:table AS text)
    """
)
