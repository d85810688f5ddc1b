"""Statements that versions are made of: each may run again, and each runs with a connection or as text (`--sql`).

What oban_sa makes carries a comment, so that a downgrade drops that and nothing which another Oban made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count
from textwrap import dedent, indent
from typing import Final

from alembic.operations import Operations
from sqlalchemy import text

from oban_sa.errors import InvalidOption

OURS: Final = "oban_sa"
"""The comment on tables, types, indexes and functions that oban_sa made."""

BODY: Final = "-- Made by oban_sa\n"
"""What the body of a function that oban_sa made begins with."""

_LONGEST_SCHEMA: Final = 48
"""Characters; a notification's channel is `<schema>.oban_cronitor`, and PostgreSQL allows it 63 bytes."""


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
    """Drop a table unless another program made it."""
    name = f"{quoted(schema)}.{table}"
    when(
        operations,
        # Behind ours may stand the version, in the comment of the table that records it.
        f"obj_description(to_regclass({literal(name)}), 'pg_class') ~ '^{OURS}( [0-9]+)?$'",
        f"DROP TABLE {name}",
    )


def make_function(operations: Operations, schema: str, name: str, returning: str, body: str) -> None:
    """Make a function in plpgsql unless there is one with its name and types, whoever made it.

    `name` comes with parameters and their types; `returning` is the type of its answer.
    """
    function = f"{quoted(schema)}.{name}"
    when(
        operations,
        f"to_regprocedure({literal(types_of(function))}) IS NULL",
        f"CREATE FUNCTION {function} RETURNS {returning} LANGUAGE plpgsql AS {literal(BODY + dedent(body))}",
        f"COMMENT ON FUNCTION {function} IS '{OURS}'",
    )


def drop_function(operations: Operations, schema: str, name: str) -> None:
    """Drop a function unless another program made it, or put a body of its own into ours."""
    function = f"{quoted(schema)}.{name}"
    found = f"to_regprocedure({literal(types_of(function))})"
    when(
        operations,
        # CREATE OR REPLACE leaves the comment, so the body tells, too.
        f"obj_description({found}, 'pg_proc') = '{OURS}'\n"  # noqa: S608 - the name is quoted
        f"AND starts_with((SELECT prosrc FROM pg_catalog.pg_proc WHERE oid = {found}), {literal(BODY)})",
        f"DROP FUNCTION {function}",
    )


def types_of(function: str) -> str:
    """Return a function's name with the types of its parameters alone, as `to_regprocedure` wants it."""
    before, _, parameters = function.rpartition("(")
    return f"{before}({', '.join(each.split()[-1] for each in parameters.removesuffix(')').split(','))})"
