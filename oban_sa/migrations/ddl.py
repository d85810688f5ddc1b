"""Statements of the versions: each may run again, and each runs on a connection or is printed (`--sql`).

What oban_sa makes carries a comment, so that a downgrade drops that and nothing that another Oban made.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from textwrap import dedent, indent
from typing import Final

from alembic.operations import Operations
from sqlalchemy import text

from oban_sa.catalog.names import OURS as OURS
from oban_sa.catalog.names import quoted as quoted

BODY: Final = "-- Made by oban_sa\n"
"""The first line of the body of a function that oban_sa made."""


def literal(value: str) -> str:
    """Quote a string for SQL, in a form that does not depend on `standard_conforming_strings`."""
    written = "'" + value.replace("'", "''") + "'"
    return f" E{written}".replace("\\", "\\\\") if "\\" in value else written


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
    body = ";\n".join(dedent(statement).strip() for statement in statements)
    block = f"BEGIN\nIF {condition} THEN\n{indent(body, '    ')};\nEND IF;\nEND"
    # The name of a schema may contain a tag, which would end the block, and the rest of the name would be run.
    tag = next(tag for number in count() if (tag := f"$oban{number or ''}$") not in block)
    execute(operations, f"DO {tag}\n{block}\n{tag}")


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
        f"AND obj_description(to_regclass({literal(before)}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'\n"
        f"AND '{{{','.join(sorted(columns))}}}' = (\n"
        "    SELECT array_agg(CAST(attname AS text) ORDER BY attname) FROM pg_catalog.pg_attribute\n"
        f"    WHERE attrelid = to_regclass({literal(before)}) AND attnum > 0 AND NOT attisdropped\n"
        ")",
        f"ALTER TABLE {before} RENAME TO {new}",
        f"ALTER TABLE {after} RENAME CONSTRAINT {old}_pkey TO {new}_pkey",
    )


def drop_ours(operations: Operations, schema: str, table: str) -> None:
    """Drop a table unless another program made it."""
    name = f"{quoted(schema)}.{table}"
    when(
        operations,
        # The comment of the table that records the version has it behind ours.
        f"obj_description(to_regclass({literal(name)}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'",
        f"DROP TABLE {name}",
    )


def make_function(operations: Operations, schema: str, name: str, returning: str, body: str) -> None:
    """Make a function in plpgsql unless there is one with its name and types, from any program.

    `name` includes the parameters and their types; `returning` is the type of the result.
    """
    function = f"{quoted(schema)}.{name}"
    # In a script an empty line stands between two statements, and in none of them.
    body = "".join(f"{line}\n" for line in dedent(body).splitlines() if line.strip())
    when(
        operations,
        f"to_regprocedure({literal(types_of(function))}) IS NULL",
        f"CREATE FUNCTION {function} RETURNS {returning} LANGUAGE plpgsql AS {literal(BODY + body)}",
        f"COMMENT ON FUNCTION {function} IS '{OURS}'",
    )


def drop_function(operations: Operations, schema: str, name: str) -> None:
    """Drop a function unless another program made it, or replaced its body."""
    function = f"{quoted(schema)}.{name}"
    found = f"to_regprocedure({literal(types_of(function))})"
    when(
        operations,
        # CREATE OR REPLACE keeps the comment, so the body is checked too.
        f"obj_description({found}, 'pg_proc') = '{OURS}'\n"  # noqa: S608 - the name is quoted
        f"AND starts_with((SELECT prosrc FROM pg_catalog.pg_proc WHERE oid = {found}), {literal(BODY)})",
        f"DROP FUNCTION {function}",
    )


def types_of(function: str) -> str:
    """Return a function's name with its parameters' types and without their names, as `to_regprocedure` takes it."""
    before, _, parameters = function.rpartition("(")
    return f"{before}({', '.join(each.split()[-1] for each in parameters.removesuffix(')').split(','))})"
