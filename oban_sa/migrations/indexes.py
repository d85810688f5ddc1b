"""Indexes, mostly on `oban_jobs`: built without blocking writes, and dropped where they are ours."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from alembic.operations import Operations
from sqlalchemy import Connection, text

from oban_sa.errors import SchemaError
from oban_sa.migrations.ddl import OURS, execute, literal, quoted, when


@dataclass(frozen=True, slots=True)
class Index:
    """An index: its name, what follows the table's name in CREATE INDEX, and its table."""

    name: str
    definition: str
    table: str = "oban_jobs"

    def create(self, schema: str, *, concurrently: bool = False) -> str:
        """Return the statement that builds it unless it exists."""
        return (
            f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}IF NOT EXISTS {self.name} "
            f"ON {self.on(schema)} {self.definition}"
        )

    def on(self, schema: str) -> str:
        """Return the name of its table."""
        return f"{quoted(schema)}.{self.table}"

    def mark(self, schema: str) -> str:
        """Return the statement that marks it as ours, by a comment."""
        return f"COMMENT ON INDEX {quoted(schema)}.{self.name} IS '{OURS}'"


def make_indexes(operations: Operations, schema: str, indexes: Iterable[Index]) -> None:
    """Build the indexes of a table that don't exist, without blocking writes where it has rows.

    There they are built CONCURRENTLY, outside of a transaction, which commits what the migration did before. Where
    the transaction is the caller's and can't be left, they are built inside it. One that a failed build left invalid
    is built again. Raises SchemaError where something else has the name of an index.
    """
    context = operations.get_context()
    if context.as_sql:
        with context.autocommit_block():
            _write_script(operations, schema, tuple(indexes))
        return
    connection = operations.get_bind()
    usable = {index: _usable(connection, schema, index) for index in indexes}
    wanted = [index for index in usable if not usable[index]]
    if not wanted:
        return
    concurrently = _has_rows(connection, wanted[0].on(schema)) and _may_leave_transaction(operations)
    with context.autocommit_block() if concurrently else nullcontext():
        for index in wanted:
            if usable[index] is False:
                execute(operations, f"DROP INDEX {quoted(schema)}.{index.name}")
            execute(operations, index.create(schema, concurrently=concurrently))
            execute(operations, index.mark(schema))


def drop_index(operations: Operations, schema: str, index: Index) -> None:
    """Drop an index unless another program made it."""
    name = f"{quoted(schema)}.{index.name}"
    when(operations, f"obj_description(to_regclass({literal(name)}), 'pg_class') = '{OURS}'", f"DROP INDEX {name}")


def _write_script(operations: Operations, schema: str, indexes: tuple[Index, ...]) -> None:
    # A script can't check for rows; on an empty table CONCURRENTLY costs nothing.
    for index in indexes:
        name = literal(f"{quoted(schema)}.{index.name}")
        table = literal(index.on(schema))
        when(
            operations,
            f"EXISTS (\n    SELECT FROM pg_catalog.pg_index WHERE indexrelid = to_regclass({name})\n"
            f"    AND indrelid = to_regclass({table}) AND NOT indisvalid\n)",
            f"DROP INDEX {quoted(schema)}.{index.name}",
        )
    # Each is built by a statement of its own, outside of a transaction. So what had its name before is kept in a
    # setting of the session, and where that was lost, as behind a pooler, no index is marked.
    names = ", ".join(literal(index.name) for index in indexes)
    found = (
        f"SELECT array_agg(name) FROM unnest(ARRAY[{names}]) AS name\n"  # noqa: S608 - the names are quoted
        f"    WHERE to_regclass({literal(quoted(schema) + '.')} || name) IS NOT NULL"
    )
    former = f"CAST(array_prepend('former', ({found})) AS text)"
    when(operations, "true", f"PERFORM set_config('{_FORMER}', {former}, false)")
    former = f"CAST(nullif(current_setting('{_FORMER}', true), '') AS text[])"
    for index in indexes:
        execute(operations, index.create(schema, concurrently=True))
        when(
            operations,
            f"'former' = ANY ({former}) AND {literal(index.name)} <> ALL ({former})",
            index.mark(schema),
        )


_FORMER: Final = "oban_sa.former_indexes"
"""A setting of the session that runs a script: the names that were taken before it built the indexes."""


def _usable(connection: Connection, schema: str, index: Index) -> bool | None:
    """Return whether an index is valid, or None where it does not exist; raises where something else has its name."""
    found = connection.execute(_FOUND, {"name": f"{quoted(schema)}.{index.name}", "table": index.on(schema)})
    row = found.one_or_none()
    if row is None:
        return None
    if not row.on_table:
        raise SchemaError(
            f"the name {index.name} is taken in schema {schema!r} by something that is no index on {index.table}; "
            f"rename it, or give the jobs a schema of their own"
        )
    return bool(row.indisvalid)


_FOUND = text(
    """
    SELECT i.indisvalid, i.indrelid IS NOT DISTINCT FROM to_regclass(CAST(:table AS text)) AS on_table
    FROM (SELECT to_regclass(CAST(:name AS text)) AS oid) AS named
    LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = named.oid
    WHERE named.oid IS NOT NULL
    """
)


def _has_rows(connection: Connection, table: str) -> bool:
    statement = f"SELECT EXISTS (SELECT FROM {table})"  # noqa: S608 - the name is quoted
    return bool(connection.scalar(text(statement.replace(":", "\\:"))))


def _may_leave_transaction(operations: Operations) -> bool:
    # Alembic's autocommit_block asserts that the transaction is its own. One that the caller began is the caller's to
    # commit.
    context = operations.get_context()
    return getattr(context, "_transaction", None) is not None or not operations.get_bind().in_transaction()
