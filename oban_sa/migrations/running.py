"""Running the migrations from a program, without an Alembic project of its own."""

from __future__ import annotations

from typing import Any, TextIO

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection


def migrate(connection: Connection, schema: str = "public", *, version: int | None = None, down: bool = False) -> None:
    """Bring the tables in `schema` up to `version`, by default the latest, or down to it, by default to nothing.

    Migrates in a transaction of its own, and does nothing where everything is there already. With an asynchronous
    engine: `await connection.run_sync(migrate)`.
    """
    context = MigrationContext.configure(connection)
    with context.begin_transaction():
        _operate(context, schema, version, down)


def write_sql(output: TextIO, schema: str, *, version: int | None = None, down: bool = False) -> None:
    """Write the statements that `migrate` would run on an empty database (or, down, on a full one)."""
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": output})
    with context.begin_transaction():
        _operate(context, schema, version, down)


def _operate(context: MigrationContext, schema: str, version: int | None, down: bool) -> None:
    with Operations.context(context) as operations:
        directives: Any = operations
        given = {} if version is None else {"version": version}
        if down:
            directives.downgrade_oban(schema=schema, **given)
        else:
            directives.upgrade_oban(schema=schema, **given)
