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

    up: Callable[[Operations, str], None]
    down: Callable[[Operations, str], None]


VERSIONS: Final = cast("tuple[Version, ...]", (v01_everything,))
LATEST: Final = len(VERSIONS)
"""The newest version; what this release of oban_sa works with."""


def installed(connection: Connection, schema: str = "public") -> int:
    """Return which version of our tables a schema has; 0 where it has none, whatever another Oban made there."""
    statement = text("SELECT obj_description(to_regclass(CAST(:name AS text)), 'pg_class')")
    comment = connection.scalar(statement, {"name": f"{ddl.quoted(schema)}.{RECORD}"})
    recorded = re.fullmatch(rf"{ddl.OURS} (\d+)({ADOPTED})?", comment or "")
    return int(recorded[1]) if recorded else 0
