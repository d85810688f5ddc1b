"""Oban version 6: open flows have an index, and no index is of what changes in members.

Revision ID: oban_v06
Revises: oban_v05
"""

from __future__ import annotations

from alembic import context, op
from alembic.operations import Operations
from sqlalchemy import text

from oban_sa.migrations import branch, ddl, indexes
from oban_sa.migrations.indexes import Index

revision = "oban_v06"
down_revision = "oban_v05"
branch_labels = None
depends_on = None

OPEN = Index("oban_sa_flows_open_index", "(id) WHERE completed_at IS NULL", table="oban_sa_flows")


if __name__ != "oban_sa.migrations.versions.v06_open_flows":  # Alembic loads it by its path
    branch.refuse_others()
    branch.refuse_new()


def upgrade(engine_name: str | None = None) -> None:
    """Do as `op.upgrade_oban(version=6)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.upgrade_oban(version=6)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def downgrade(engine_name: str | None = None) -> None:
    """Do as `op.downgrade_oban(version=5)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.downgrade_oban(version=5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def up(operations: Operations, schema: str) -> None:
    """Make what is missing, and drop the index that an older version made of members."""
    # With an index that depends on `settled` or `waiting`, each new version of a row got an entry in all indexes.
    _change_members(
        operations,
        schema,
        "ALTER TABLE {s}.oban_sa_members SET (fillfactor = 50)",
        "DROP INDEX IF EXISTS {s}.oban_sa_members_released_index",
    )
    # Another program's table of that name stands in the way of all of it, which is said at the end.
    if operations.get_context().as_sql or _is_ours(operations, schema):
        indexes.make_indexes(operations, schema, (OPEN,))


def down(operations: Operations, schema: str) -> None:
    """Drop what `up` made, and make again what it dropped."""
    indexes.drop_index(operations, schema, OPEN)
    _change_members(
        operations,
        schema,
        "CREATE INDEX IF NOT EXISTS oban_sa_members_released_index ON {s}.oban_sa_members (job_id) "
        "WHERE settled IS NULL AND waiting = 0",
        "ALTER TABLE {s}.oban_sa_members SET (fillfactor = 85)",
    )


def _change_members(operations: Operations, schema: str, *statements: str) -> None:
    """Run statements where the table of members is ours."""
    s = ddl.quoted(schema)
    ours = ddl.is_ours(schema, "oban_sa_members")
    ddl.when(operations, ours, *(statement.format(s=s) for statement in statements))


def _is_ours(operations: Operations, schema: str) -> bool:
    statement = f"SELECT {ddl.is_ours(schema, OPEN.table)}"
    return bool(operations.get_bind().scalar(text(statement.replace(":", "\\:"))))
