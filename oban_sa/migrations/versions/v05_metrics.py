"""Oban version 5: what runners did by minute and hour, and which crontab entries are paused.

Revision ID: oban_v05
Revises: oban_v04
"""

from __future__ import annotations

from alembic import context, op
from alembic.operations import Operations

from oban_sa.migrations import branch, ddl

revision = "oban_v05"
down_revision = "oban_v04"
branch_labels = None
depends_on = None

TABLES = ("oban_sa_metrics", "oban_sa_cron_pauses")


if __name__ != "oban_sa.migrations.versions.v05_metrics":  # Alembic loads it by its path
    branch.refuse_others()
    branch.refuse_new()


def upgrade(engine_name: str | None = None) -> None:
    """Do as `op.upgrade_oban(version=5)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.upgrade_oban(version=5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def downgrade(engine_name: str | None = None) -> None:
    """Do as `op.downgrade_oban(version=4)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.downgrade_oban(version=4)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def up(operations: Operations, schema: str) -> None:
    """Make what is missing."""
    s = ddl.quoted(schema)
    # Rows are updated often, and no indexed column is: the free space keeps the new versions on their page.
    ddl.make_table(
        operations,
        schema,
        "oban_sa_metrics",
        f"""
        CREATE TABLE {s}.oban_sa_metrics (
            step integer NOT NULL,
            queue text NOT NULL,
            worker text NOT NULL,
            at timestamp without time zone NOT NULL,
            node text NOT NULL,
            outcomes jsonb NOT NULL DEFAULT '{{}}',
            failures jsonb NOT NULL DEFAULT '{{}}',
            run jsonb NOT NULL DEFAULT '{{}}',
            wait jsonb NOT NULL DEFAULT '{{}}',
            backlog integer,
            oldest double precision,
            flush uuid,
            CONSTRAINT oban_sa_metrics_pkey PRIMARY KEY (step, queue, worker, at, node)
        ) WITH (fillfactor = 50)
        """,
        f"CREATE INDEX oban_sa_metrics_step_at_index ON {s}.oban_sa_metrics (step, at)",
    )
    # No column of oban_sa_crons: whoever may pause an entry need not be allowed to change what it runs.
    ddl.make_table(
        operations,
        schema,
        "oban_sa_cron_pauses",
        f"""
        CREATE TABLE {s}.oban_sa_cron_pauses (
            name text CONSTRAINT oban_sa_cron_pauses_pkey PRIMARY KEY,
            paused_at timestamp without time zone NOT NULL DEFAULT timezone('UTC', now())
        )
        """,
    )


def down(operations: Operations, schema: str) -> None:
    """Drop what `up` made."""
    for table in reversed(TABLES):
        ddl.drop_ours(operations, schema, table)
