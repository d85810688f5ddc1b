"""Going up and down the versions: what a schema lacks is made, what oban_sa made is dropped, and the rest stays."""

from __future__ import annotations

from alembic.operations import Operations

from oban_sa.errors import InvalidOption, SchemaError
from oban_sa.migrations import ddl, inspection
from oban_sa.migrations.history import ADOPTED, LATEST, RECORD, VERSIONS, installed
from oban_sa.migrations.turns import turn


def upgrade(operations: Operations, *, version: int | None, schema: str) -> None:
    """Bring a schema up to `version`, or to the newest; do nothing where all of it is there already.

    Raises SchemaError where something stands in the way that another program made.
    """
    target = LATEST if version is None else _checked(version, lowest=1)
    with turn(operations, schema) as still_ours:
        if not operations.get_context().as_sql and not _wanted(operations, schema, target):
            return
        # From the first one on: what an older version made may be what is missing now.
        for number in range(1, target + 1):
            VERSIONS[number - 1].up(operations, schema)
            still_ours()
        if not operations.get_context().as_sql:
            _refuse_what_still_lacks(operations, schema, target)
        _record(operations, schema, target)


def downgrade(operations: Operations, *, version: int, schema: str) -> None:
    """Bring a schema down to `version`; 0 drops everything that oban_sa made, jobs included."""
    target = _checked(version, lowest=0)
    with turn(operations, schema) as still_ours:
        # As text nobody can look; and a version that was lost must not keep anything. Every step may run again.
        look = target > 0 and not operations.get_context().as_sql
        found = min(installed(operations.get_bind(), schema), LATEST) if look else LATEST
        for number in range(found, target, -1):
            VERSIONS[number - 1].down(operations, schema)
            still_ours()
        if target == 0:
            _forget(operations, schema)
        elif found > target:
            _record(operations, schema, target)


def _wanted(operations: Operations, schema: str, target: int) -> bool:
    """Return whether there is anything to do; raise where a table of jobs is there with which nothing can be done."""
    connection = operations.get_bind()
    found = installed(connection, schema)
    if found > target or (found == target < LATEST):
        return False
    if unfit := inspection.unfit(connection, schema):
        raise _in_the_way(schema, unfit)
    return found < target or bool(inspection.unfinished(connection, schema))


def _refuse_what_still_lacks(operations: Operations, schema: str, target: int) -> None:
    # Success here and "missing, run the migration" in the runner would send people in circles.
    if target == LATEST and (lacking := inspection.lacking(operations.get_bind(), schema)):
        raise _in_the_way(schema, lacking)


def _in_the_way(schema: str, sentences: list[str]) -> SchemaError:
    listed = "\n".join(f"- {sentence}" for sentence in sentences)
    return SchemaError(
        f"the tables in schema {schema!r} can't be brought up to date:\n{listed}\n"
        "Something that oban_sa did not make stands in the way, and it is left alone. Rename it, bring it up to date "
        "with what made it, or give the jobs a schema of their own"
    )


def _record(operations: Operations, schema: str, version: int) -> None:
    table = f"{ddl.quoted(schema)}.{RECORD}"
    comment = f"obj_description(to_regclass({ddl.literal(table)}), 'pg_class')"
    ours = f"COMMENT ON TABLE {table} IS '{ddl.OURS} {version}'"
    adopted = f"COMMENT ON TABLE {table} IS '{ddl.OURS} {version}{ADOPTED}'"
    ddl.when(operations, f"{comment} ~ '^{ddl.OURS}( [0-9]+)?$'", ours)
    ddl.when(operations, f"coalesce({comment}, '{ddl.OURS} 0{ADOPTED}') ~ '^{ddl.OURS} [0-9]+{ADOPTED}$'", adopted)
    if not operations.get_context().as_sql and installed(operations.get_bind(), schema) != version:
        raise SchemaError(
            f"the version can't be kept in the comment of {RECORD}, which has another; if the table is oban_sa's, run: "
            f"COMMENT ON TABLE {table} IS '{ddl.OURS} {version}'"
        )


def _forget(operations: Operations, schema: str) -> None:
    table = f"{ddl.quoted(schema)}.{RECORD}"
    comment = f"obj_description(to_regclass({ddl.literal(table)}), 'pg_class')"
    ddl.when(operations, f"{comment} ~ '^{ddl.OURS} [0-9]+{ADOPTED}$'", f"COMMENT ON TABLE {table} IS NULL")


def _checked(version: int, *, lowest: int) -> int:
    if not lowest <= version <= LATEST:
        raise InvalidOption(
            f"version must be between {lowest} and {LATEST}, the newest this release has; got {version!r}"
        )
    return version
