"""Oban version 3: workflows and batches.

Revision ID: oban_v03
Revises: oban_v02
"""

from __future__ import annotations

from alembic import context, op
from alembic.operations import Operations

from oban_sa.migrations import branch, ddl, flow_trigger, web_view

revision = "oban_v03"
down_revision = "oban_v02"
branch_labels = None
depends_on = None

TABLES = ("oban_sa_flows", "oban_sa_members", "oban_sa_edges", "oban_sa_gates", "oban_sa_endings")


if __name__ != "oban_sa.migrations.versions.v03_flows":  # Alembic loads it by its path
    branch.refuse_others()
    branch.refuse_new()


def upgrade(engine_name: str | None = None) -> None:
    """Do as `op.upgrade_oban(version=3)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.upgrade_oban(version=3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def downgrade(engine_name: str | None = None) -> None:
    """Do as `op.downgrade_oban(version=2)`, with several databases in the one that `oban_engine` names."""
    if branch.chosen(context.config, engine_name):
        op.downgrade_oban(version=2)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def up(operations: Operations, schema: str) -> None:
    """Make what is missing."""
    s = ddl.quoted(schema)
    # Counters change again and again, and no index has them: with room in its page an update touches no index.
    ddl.make_table(
        operations,
        schema,
        "oban_sa_flows",
        f"""
        CREATE TABLE {s}.oban_sa_flows (
            id uuid CONSTRAINT oban_sa_flows_pkey PRIMARY KEY,
            root_id uuid NOT NULL,
            path uuid[] NOT NULL,
            kind text NOT NULL,
            lane smallint NOT NULL,
            name text,
            unique_name text,
            total integer NOT NULL DEFAULT 0,
            unfinished integer NOT NULL DEFAULT 0,
            completed integer NOT NULL DEFAULT 0,
            cancelled integer NOT NULL DEFAULT 0,
            discarded integer NOT NULL DEFAULT 0,
            attempted integer NOT NULL DEFAULT 0,
            context jsonb,
            callbacks jsonb,
            fired text[] NOT NULL DEFAULT '{{}}',
            meta jsonb NOT NULL DEFAULT '{{}}'::jsonb,
            inserted_at timestamp without time zone NOT NULL DEFAULT timezone('UTC', now()),
            started_at timestamp without time zone,
            cancelled_at timestamp without time zone,
            completed_at timestamp without time zone
        ) WITH (fillfactor = 50)
        """,
        f"CREATE UNIQUE INDEX oban_sa_flows_unique_name_index ON {s}.oban_sa_flows (unique_name) "
        "WHERE unique_name IS NOT NULL AND completed_at IS NULL",
        f"CREATE INDEX oban_sa_flows_root_id_index ON {s}.oban_sa_flows (root_id) WHERE id <> root_id",
        f"CREATE INDEX oban_sa_flows_completed_at_index ON {s}.oban_sa_flows (completed_at) "
        "WHERE id = root_id AND completed_at IS NOT NULL",
    )
    # No foreign key to oban_jobs: each job that is pruned, also a plain one, would be looked for here.
    ddl.make_table(
        operations,
        schema,
        "oban_sa_members",
        f"""
        CREATE TABLE {s}.oban_sa_members (
            job_id bigint CONSTRAINT oban_sa_members_pkey PRIMARY KEY,
            flow_id uuid NOT NULL,
            name text NOT NULL,
            waiting integer,
            doomed text,
            settled text,
            attempted boolean NOT NULL DEFAULT false,
            holds uuid[],
            retried integer NOT NULL DEFAULT 0,
            CONSTRAINT oban_sa_members_flow_id_name_key UNIQUE (flow_id, name)
        ) WITH (fillfactor = 85)
        """,
        f"CREATE INDEX oban_sa_members_released_index ON {s}.oban_sa_members (job_id) "
        "WHERE settled IS NULL AND waiting = 0",
    )
    ddl.make_table(
        operations,
        schema,
        "oban_sa_edges",
        f"""
        CREATE TABLE {s}.oban_sa_edges (
            parent_id bigint NOT NULL,
            child_id bigint NOT NULL,
            forgives smallint NOT NULL DEFAULT 0,
            CONSTRAINT oban_sa_edges_pkey PRIMARY KEY (parent_id, child_id)
        )
        """,
        f"CREATE INDEX oban_sa_edges_child_id_index ON {s}.oban_sa_edges (child_id)",
    )
    ddl.make_table(
        operations,
        schema,
        "oban_sa_gates",
        f"""
        CREATE TABLE {s}.oban_sa_gates (
            flow_id uuid NOT NULL,
            child_id bigint NOT NULL,
            forgives smallint NOT NULL DEFAULT 0,
            CONSTRAINT oban_sa_gates_pkey PRIMARY KEY (flow_id, child_id)
        )
        """,
        f"CREATE INDEX oban_sa_gates_child_id_index ON {s}.oban_sa_gates (child_id)",
    )
    # A queue: mostly empty, so it is to be vacuumed by the number of its dead rows, and not by a share of it.
    ddl.make_table(
        operations,
        schema,
        "oban_sa_endings",
        f"""
        CREATE TABLE {s}.oban_sa_endings (
            lane smallint NOT NULL,
            id bigint GENERATED BY DEFAULT AS IDENTITY,
            job_id bigint,
            flow_id uuid,
            recount boolean NOT NULL DEFAULT false,
            CONSTRAINT oban_sa_endings_pkey PRIMARY KEY (lane, id)
        ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
        """,
    )


def down(operations: Operations, schema: str) -> None:
    """Drop what `up` made, and what was asked for beside it."""
    web_view.drop_view(operations, schema)
    flow_trigger.drop_trigger(operations, schema)
    for table in reversed(TABLES):
        ddl.drop_ours(operations, schema, table)
