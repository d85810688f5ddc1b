"""Statements that versions are made of: each may run again, and each runs with a connection or as text (`--sql`).

What oban_sa makes carries a comment, so that a downgrade drops that and nothing which another Oban made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from textwrap import dedent, indent
from typing import Final

from alembic.operations import Operations
from sqlalchemy import Connection, text

from oban_sa.errors import InvalidOption

OURS: Final = "oban_sa"
"""The comment on tables, types and indexes that oban_sa made."""

_LONGEST_SCHEMA: Final = 48
"""Characters; a notification's channel is `<schema>.oban_cronitor`, and PostgreSQL allows it 63 bytes."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index on `oban_jobs`: its name, and what stands behind the table's name in CREATE INDEX."""

    name: str
    definition: str

    def create(self, schema: str, *, concurrently: bool = False) -> str:
        """Return the statement that makes it unless it exists."""
        return (
            f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}IF NOT EXISTS {self.name} "
            f"ON {quoted(schema)}.oban_jobs {self.definition}"
        )

    def mark(self, schema: str) -> str:
        """Return the statement that says it is ours."""
        return f"COMMENT ON INDEX {quoted(schema)}.{self.name} IS '{OURS}'"


def quoted(name: str) -> str:
    """Write the name of a schema as SQL has it; raise InvalidOption for one that notifications could not use."""
    if not name.strip() or len(name.encode()) > _LONGEST_SCHEMA or re.search(r"[\x00-\x1f\x7f]", name):
        raise InvalidOption(
            f"the schema {name!r} can't be used; write a name of 1 to {_LONGEST_SCHEMA} characters, such as 'jobs'"
        )
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Write a string as SQL has it, whatever `standard_conforming_strings` says."""
    written = "'" + value.replace("'", "''") + "'"
    return f" E{written}".replace("\\", "\\\\") if "\\" in value else written


def execute(operations: Operations, statement: str) -> None:
    """Run one statement, or print it."""
    written = dedent(statement).strip()
    context = operations.get_context()
    if context.as_sql:  # as it is: Alembic would double each "%", for a driver that is not there
        context.impl.static_output(written + context.impl.command_terminator)
    else:
        operations.execute(text(written.replace(":", "\\:")))


def when(operations: Operations, condition: str, *statements: str) -> None:
    """Run statements where the database finds `condition` true."""
    body = ";\n".join(dedent(statement).strip() for statement in statements)
    block = f"BEGIN\nIF {condition} THEN\n{indent(body, '    ')};\nEND IF;\nEND"
    # The name of a schema may hold a tag, and what stood behind it would then be run.
    tag = next(tag for number in count() if (tag := f"$oban{number or ''}$") not in block)
    execute(operations, f"DO {tag}\n{block}\n{tag}")


def make_schema(operations: Operations, schema: str) -> None:
    """Make the schema unless it exists; it is never dropped again, for others may have moved in."""
    # CREATE SCHEMA IF NOT EXISTS asks for the right to create one even where it exists.
    when(operations, f"to_regnamespace({literal(quoted(schema))}) IS NULL", f"CREATE SCHEMA {quoted(schema)}")


def make_table(operations: Operations, schema: str, table: str, *statements: str, comment: str = OURS) -> None:
    """Run statements unless the table exists, and comment on the table they made."""
    name = f"{quoted(schema)}.{table}"
    when(
        operations,
        f"to_regclass({literal(name)}) IS NULL",
        *statements,
        f"COMMENT ON TABLE {name} IS {literal(comment)}",
    )


def rename_ours(operations: Operations, schema: str, old: str, new: str, columns: Iterable[str]) -> None:
    """Give a table that oban_sa made another name, unless one of that name exists.

    The comment alone would not do: an early oban_sa wrote it on a table of Oban Pro, too. So the columns decide.
    """
    before, after = f"{quoted(schema)}.{old}", f"{quoted(schema)}.{new}"
    when(
        operations,
        f"to_regclass({literal(after)}) IS NULL\n"  # noqa: S608 - the names are quoted
        f"AND obj_description(to_regclass({literal(before)}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'\n"
        f"AND '{{{','.join(sorted(columns))}}}' = (\n"
        "    SELECT array_agg(CAST(attname AS text) ORDER BY attname) FROM pg_catalog.pg_attribute\n"
        f"    WHERE attrelid = to_regclass({literal(before)}) AND attnum > 0 AND NOT attisdropped\n"
        ")",
        f"ALTER TABLE {before} RENAME TO {new}",
        f"ALTER TABLE {after} RENAME CONSTRAINT {old}_pkey TO {new}_pkey",
    )


def drop_ours(operations: Operations, schema: str, table: str) -> None:
    """Drop a table unless another Oban made it."""
    name = f"{quoted(schema)}.{table}"
    when(
        operations,
        # Behind ours may stand the version, in the comment of the table that records it.
        f"obj_description(to_regclass({literal(name)}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'",
        f"DROP TABLE {name}",
    )


def make_indexes(operations: Operations, schema: str, indexes: Iterable[Index]) -> None:
    """Make those indexes which don't exist, without stopping writers where the table has rows.

    There they are built CONCURRENTLY, outside of a transaction, which commits what the migration did before. Where
    the transaction is the caller's and can't be left, they are built inside it. One that a failed build left invalid
    is made anew.
    """
    context = operations.get_context()
    if context.as_sql:
        # Nobody can look whether there are rows; on an empty table this costs nothing.
        with context.autocommit_block():
            for index in indexes:
                execute(operations, index.create(schema, concurrently=True))
        return
    connection = operations.get_bind()
    usable = {index: _usable(connection, schema, index) for index in indexes}
    wanted = [index for index in usable if not usable[index]]
    if not wanted:
        return
    concurrently = _has_rows(connection, schema) and _may_leave_transaction(operations)
    with context.autocommit_block() if concurrently else nullcontext():
        for index in wanted:
            if usable[index] is False:
                execute(operations, f"DROP INDEX {quoted(schema)}.{index.name}")
            execute(operations, index.create(schema, concurrently=concurrently))
            execute(operations, index.mark(schema))


def drop_index(operations: Operations, schema: str, index: Index) -> None:
    """Drop an index unless another Oban made it."""
    name = f"{quoted(schema)}.{index.name}"
    when(operations, f"obj_description(to_regclass({literal(name)}), 'pg_class') = '{OURS}'", f"DROP INDEX {name}")


def _usable(connection: Connection, schema: str, index: Index) -> bool | None:
    """Return whether an index is valid, or None where it does not exist."""
    statement = text("SELECT indisvalid FROM pg_catalog.pg_index WHERE indexrelid = to_regclass(CAST(:name AS text))")
    found: bool | None = connection.scalar(statement, {"name": f"{quoted(schema)}.{index.name}"})
    return found


def _has_rows(connection: Connection, schema: str) -> bool:
    statement = f"SELECT EXISTS (SELECT FROM {quoted(schema)}.oban_jobs)"  # noqa: S608 - the name is quoted
    return bool(connection.scalar(text(statement.replace(":", "\\:"))))


def _may_leave_transaction(operations: Operations) -> bool:
    # Alembic asserts that the transaction is its own; one that the caller began can't be committed under its feet.
    context = operations.get_context()
    return getattr(context, "_transaction", None) is not None or not operations.get_bind().in_transaction()
