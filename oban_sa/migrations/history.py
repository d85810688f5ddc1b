"""The versions in order, and which of them a database has; it is kept in the comment of the table `oban_sa_queues`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, Protocol, cast

from alembic.operations import Operations
from sqlalchemy import Connection, text

from oban_sa.errors import InvalidOption
from oban_sa.migrations import ddl
from oban_sa.migrations.turns import turn
from oban_sa.migrations.versions import v01_everything

RECORD: Final = "oban_sa_queues"
"""The table whose comment says `oban_sa <version>`."""


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
    recorded = re.fullmatch(rf"{ddl.OURS} (\d+)", comment or "")
    return int(recorded[1]) if recorded else 0


def upgrade(operations: Operations, *, version: int | None, schema: str) -> None:
    """Bring a schema up to `version`, or to the newest; do nothing where it is there already."""
    target = LATEST if version is None else _checked(version, lowest=1)
    with turn(operations, schema) as still_ours:
        found = _found(operations, schema, otherwise=0)
        for number in range(found + 1, target + 1):
            VERSIONS[number - 1].up(operations, schema)
            still_ours()
            _record(operations, schema, number)


def downgrade(operations: Operations, *, version: int, schema: str) -> None:
    """Bring a schema down to `version`; 0 drops everything that oban_sa made, jobs included."""
    target = _checked(version, lowest=0)
    with turn(operations, schema) as still_ours:
        found = _found(operations, schema, otherwise=LATEST)
        for number in range(found, target, -1):
            VERSIONS[number - 1].down(operations, schema)
            still_ours()
            if number > 1:
                _record(operations, schema, number - 1)


def _found(operations: Operations, schema: str, *, otherwise: int) -> int:
    # As text nobody can look; every step may run again, so all are printed.
    return otherwise if operations.get_context().as_sql else min(installed(operations.get_bind(), schema), LATEST)


def _record(operations: Operations, schema: str, version: int) -> None:
    ddl.execute(operations, f"COMMENT ON TABLE {ddl.quoted(schema)}.{RECORD} IS '{ddl.OURS} {version}'")


def _checked(version: int, *, lowest: int) -> int:
    if not lowest <= version <= LATEST:
        raise InvalidOption(
            f"version must be between {lowest} and {LATEST}, the newest this release has; got {version!r}"
        )
    return version
