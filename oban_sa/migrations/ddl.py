"""Statements of the versions: each may run again, and each runs on a connection or is printed (`--sql`).

What oban_sa makes carries a comment, so that a downgrade drops that and nothing that another Oban made.
"""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import dedent

from alembic.operations import Operations
from sqlalchemy import text

from oban_sa.catalog.block import block
from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.names import OURS as OURS
from oban_sa.catalog.names import literal as literal
from oban_sa.catalog.names import quoted as quoted


def execute(operations: Operations, statement: str) -> None:
    """Run one statement, or print it."""
    written = dedent(statement).strip()
    context = operations.get_context()
    if context.as_sql:  # unchanged: Alembic would double each "%", for a driver, and none reads this
        context.impl.static_output(written + context.impl.command_terminator)
    else:
        operations.execute(text(written.replace(":", "\\:")))


def when(operations: Operations, condition: str, *statements: str) -> None:
    """Run statements where the database finds `condition` true."""
    execute(operations, block(condition, *statements))


def make_schema(operations: Operations, schema: str) -> None:
    """Make the schema unless it exists; it is never dropped, for it may have got other tables."""
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
        f"AND {is_ours(schema, old)}\n"
        f"AND '{{{','.join(sorted(columns))}}}' = (\n"
        "    SELECT array_agg(CAST(attname AS text) ORDER BY attname) FROM pg_catalog.pg_attribute\n"
        f"    WHERE attrelid = to_regclass({literal(before)}) AND attnum > 0 AND NOT attisdropped\n"
        ")",
        f"ALTER TABLE {before} RENAME TO {new}",
        f"ALTER TABLE {after} RENAME CONSTRAINT {old}_pkey TO {new}_pkey",
    )


def is_ours(schema: str, table: str) -> str:
    """Return the condition that oban_sa made a table; NULL where there is none, or it has no comment."""
    name = literal(f"{quoted(schema)}.{table}")
    # The comment of the table that records the version has it behind ours.
    return f"obj_description(to_regclass({name}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'"


def drop_ours(operations: Operations, schema: str, table: str) -> None:
    """Drop a table unless another program made it."""
    when(operations, is_ours(schema, table), f"DROP TABLE {quoted(schema)}.{table}")


def make_function(operations: Operations, schema: str, function: Function) -> None:
    """Make a function unless another program's has its name and types; give ours the body of this release."""
    when(operations, function.is_wanted(schema), *function.make(schema))


def drop_function(operations: Operations, schema: str, function: Function) -> None:
    """Drop a function unless another program made it, or replaced its body."""
    when(operations, function.is_ours(schema), f"DROP FUNCTION {function.named(schema)}")
