"""Upgrade and downgrade of a schema: what it lacks is made, what oban_sa made is dropped, and the rest stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from alembic.operations import Operations

from oban_sa.catalog import inspection
from oban_sa.catalog.version import ADOPTED, LATEST, RECORD, installed
from oban_sa.errors import InvalidOption, SchemaError
from oban_sa.migrations import ddl, flow_trigger, web_view
from oban_sa.migrations.history import VERSIONS
from oban_sa.migrations.lock import migration_lock

EXTRAS: Final = {
    "oban_web": (web_view.make_view, web_view.drop_view),
    "flow_trigger": (flow_trigger.make_trigger, flow_trigger.drop_trigger),
}
"""What is made only where it is asked for, and how it is dropped."""

NEEDS: Final = 3
"""The version with the tables that these are about."""


def upgrade(operations: Operations, *, version: int | None, schema: str, extras: Mapping[str, bool | None]) -> None:
    """Bring a schema up to `version`, or to the newest; do nothing where all of it is there already.

    Of the `EXTRAS` make those that are True, drop those that are False, and leave the others as they are. Raises
    SchemaError where something that another program made stands in the way.
    """
    target = LATEST if version is None else _check(version, lowest=1)
    if target < NEEDS and (asked := [name for name, wanted in extras.items() if wanted]):
        raise InvalidOption(f"{asked[0]}=True needs version {NEEDS} of the tables, not {target}")
    with migration_lock(operations, schema) as lock_again:
        _make(operations, schema, target, lock_again)
        for name, wanted in extras.items():
            if wanted is not None:
                EXTRAS[name][0 if wanted else 1](operations, schema)
                lock_again()


def _make(operations: Operations, schema: str, target: int, lock_again: Callable[[], None]) -> None:
    """Make what a schema lacks up to a version."""
    if not operations.get_context().as_sql and not _wanted(operations, schema, target):
        return
    # From version 1 on: what is missing now may be something that an older version made.
    for number in range(1, target + 1):
        VERSIONS[number - 1].up(operations, schema)
        lock_again()
    if not operations.get_context().as_sql:
        _refuse_incomplete(operations, schema, target)
    _record(operations, schema, target)


def downgrade(operations: Operations, *, version: int, schema: str) -> None:
    """Bring a schema down to `version`; 0 drops everything that oban_sa made, jobs included."""
    target = _check(version, lowest=0)
    with migration_lock(operations, schema) as lock_again:
        # A script can't read the version, and where the record of it is lost, everything must still be dropped: then
        # all versions go down, each of which may run again.
        readable = target > 0 and not operations.get_context().as_sql
        found = min(installed(operations.get_bind(), schema), LATEST) if readable else LATEST
        for number in range(found, target, -1):
            VERSIONS[number - 1].down(operations, schema)
            lock_again()
        if target == 0:
            _remove_record(operations, schema)
        elif found > target:
            _record(operations, schema, target)


def _wanted(operations: Operations, schema: str, target: int) -> bool:
    """Return whether there is anything to do; raises SchemaError for a table `oban_jobs` that can't be used."""
    connection = operations.get_bind()
    found = inspection.inspect(connection, schema)
    if found.version > target or (found.version == target < LATEST):
        return False
    if unfit := inspection.unfit(found, schema):
        raise _in_the_way(schema, unfit)
    return found.version < target or bool(inspection.unfinished(connection, schema))


def _refuse_incomplete(operations: Operations, schema: str, target: int) -> None:
    # If this succeeded with something missing, the runner would say "run the migration" again and again.
    if target == LATEST:
        found = inspection.inspect(operations.get_bind(), schema)
        if lacking := [*inspection.lacking(found, schema), *inspection.about_functions(found, schema)]:
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


def _remove_record(operations: Operations, schema: str) -> None:
    table = f"{ddl.quoted(schema)}.{RECORD}"
    comment = f"obj_description(to_regclass({ddl.literal(table)}), 'pg_class')"
    ddl.when(operations, f"{comment} ~ '^{ddl.OURS} [0-9]+{ADOPTED}$'", f"COMMENT ON TABLE {table} IS NULL")


def _check(version: int, *, lowest: int) -> int:
    if not lowest <= version <= LATEST:
        raise InvalidOption(
            f"version must be between {lowest} and {LATEST}, the newest this release has; got {version!r}"
        )
    return version
