"""Migrations without an Alembic project: run on a connection, or written as SQL."""

from __future__ import annotations

from typing import Any, TextIO

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection


def migrate(
    connection: Connection,
    schema: str = "public",
    *,
    version: int | None = None,
    down: bool = False,
    oban_web: bool | None = None,
    flow_trigger: bool | None = None,
) -> None:
    """Bring the tables in `schema` up to `version`, by default the newest, or `down` to it, by default to 0, no tables.

    Migrates in a transaction of its own, or in the connection's where one has begun, and does nothing where everything
    is there already. With an asynchronous engine: `await connection.run_sync(migrate)`. Raises SchemaError where
    something that oban_sa did not make stands in the way, InvalidOption for a version that does not exist.

    `oban_web` and `flow_trigger` make or drop what workflows need beside other members of the family: see
    `op.upgrade_oban`.
    """
    context = MigrationContext.configure(connection)
    with context.begin_transaction():
        _operate(context, schema, version, down, oban_web=oban_web, flow_trigger=flow_trigger)


def write_sql(
    output: TextIO,
    schema: str,
    *,
    version: int | None = None,
    down: bool = False,
    oban_web: bool | None = None,
    flow_trigger: bool | None = None,
) -> None:
    """Write the statements that `migrate` would run on an empty database, or, `down`, on one with all tables."""
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": output})
    with context.begin_transaction():
        _operate(context, schema, version, down, oban_web=oban_web, flow_trigger=flow_trigger)


def _operate(context: MigrationContext, schema: str, version: int | None, down: bool, **extras: bool | None) -> None:
    with Operations.context(context) as operations:
        directives: Any = operations
        given = {} if version is None else {"version": version}
        if down:
            directives.downgrade_oban(schema=schema, **given)
        else:
            directives.upgrade_oban(schema=schema, **given, **extras)
