"""`oban_workflows`: workflows as Oban Web reads them, a view that is made where it is asked for."""

from __future__ import annotations

from typing import Final

from alembic.operations import Operations
from sqlalchemy import text

from oban_sa.errors import SchemaError
from oban_sa.migrations import ddl
from oban_sa.migrations.indexes import Index, drop_index, make_indexes

VIEW: Final = "oban_workflows"

BY_WORKFLOW: Final = Index("oban_sa_jobs_workflow_id_index", "((meta ->> 'workflow_id')) WHERE meta ? 'workflow_id'")
"""What Oban Web finds the jobs of a workflow by."""

LISTED: Final = 1000
"""Jobs of a workflow whose queues and workers are listed for the filters of Oban Web."""

_ID: Final = "CAST(id AS text)"
_PARENT: Final = "CAST(path[cardinality(path) - 1] AS text)"
_INDEXES: Final = {"oban_sa_flows_web_id_index": _ID, "oban_sa_flows_web_parent_index": _PARENT}

_STATES: Final = ("suspended", "available", "scheduled", "executing", "retryable")
_ENDED: Final = ("completed", "cancelled", "discarded")


def make_view(operations: Operations, schema: str) -> None:
    """Make the view anew, and the index; raises SchemaError where another program has the name, as Oban Pro does."""
    name = f"{ddl.quoted(schema)}.{VIEW}"
    ours = f"obj_description(to_regclass({ddl.literal(name)}), 'pg_class') = '{ddl.OURS}'"
    if not operations.get_context().as_sql:
        taken = f"SELECT to_regclass({ddl.literal(name)}) IS NOT NULL AND ({ours}) IS NOT TRUE"
        if operations.get_bind().scalar(text(taken.replace(":", "\\:"))):
            raise SchemaError(
                f"{VIEW} exists in schema {schema!r}, and oban_sa did not make it: Oban Pro has a table of that name, "
                "in which its own workflows are. Oban Web shows one or the other; migrate without oban_web"
            )
    drop_view(operations, schema, keep_index=True)
    ddl.execute(operations, f"CREATE VIEW {name} AS {_select(ddl.quoted(schema))}")
    ddl.execute(operations, f"COMMENT ON VIEW {name} IS '{ddl.OURS}'")
    # Ids are text there, by which no other index finds them.
    for index, expression in _INDEXES.items():
        indexed = f"CREATE INDEX IF NOT EXISTS {index} ON {ddl.quoted(schema)}.oban_sa_flows (({expression}))"
        ddl.execute(operations, indexed)
    make_indexes(operations, schema, [BY_WORKFLOW])


def drop_view(operations: Operations, schema: str, *, keep_index: bool = False) -> None:
    """Drop the view and the index unless another program made them."""
    name = f"{ddl.quoted(schema)}.{VIEW}"
    ours = f"obj_description(to_regclass({ddl.literal(name)}), 'pg_class') = '{ddl.OURS}'"
    ddl.when(operations, ours, f"DROP VIEW {name}")
    if not keep_index:
        for index in _INDEXES:
            ddl.execute(operations, f"DROP INDEX IF EXISTS {ddl.quoted(schema)}.{index}")
        drop_index(operations, schema, BY_WORKFLOW)


def _select(s: str) -> str:
    """The columns and words of Oban Pro's table, as Oban Web 2.12 reads them.

    It adds the jobs of a workflow and the workflows inside, so each has the counts of its own jobs alone. Those that
    have not ended are counted in their rows, for workflows that are not over.
    """
    inside = "\n".join(f"coalesce(sum(i.{state}), 0) AS {state}," for state in _ENDED)
    own = ", ".join(f"CAST(f.{state} - inside.{state} AS integer) AS {state}" for state in _ENDED)
    live = ", ".join(f"CAST(coalesce(live.{state}, 0) AS integer) AS {state}" for state in _STATES)
    counted = ", ".join(f"count(*) FILTER (WHERE CAST(j.state AS text) = '{state}') AS {state}" for state in _STATES)
    # A group is no workflow there; its members are those of the one around it.
    members = f"""
        (
            SELECT f.id
            UNION ALL
            SELECT g.id FROM {s}.oban_sa_flows g
            WHERE g.root_id = f.root_id AND g.id <> g.root_id AND g.kind <> 'workflow'
                AND g.path[cardinality(g.path) - 1] = f.id
        ) AS own(id)
        JOIN {s}.oban_sa_members m ON m.flow_id = own.id
        JOIN {s}.oban_jobs j ON j.id = m.job_id
    """  # noqa: S608 - the name of the schema is quoted
    return f"""
    SELECT
        CAST(f.id AS text) AS id, f.name, CAST(f.path[cardinality(f.path) - 1] AS text) AS parent_id,
        CASE
            WHEN f.completed_at IS NULL THEN 'executing'
            WHEN f.discarded > 0 THEN 'discarded'
            WHEN f.cancelled > 0 THEN 'cancelled'
            ELSE 'completed'
        END AS state,
        (
            SELECT jsonb_build_object(
                'queues', coalesce(jsonb_agg(DISTINCT each.queue), CAST('[]' AS jsonb)),
                'workers', coalesce(jsonb_agg(DISTINCT each.worker), CAST('[]' AS jsonb))
            )
            FROM (SELECT j.queue, j.worker FROM {members} LIMIT {LISTED}) AS each
        ) AS meta,
        {live}, {own},
        f.started_at, f.completed_at, f.inserted_at
    FROM {s}.oban_sa_flows f
    LEFT JOIN LATERAL (
        SELECT {inside.rstrip(",")}
        FROM {s}.oban_sa_flows i
        WHERE i.root_id = f.root_id AND i.id <> i.root_id AND i.kind = 'workflow'
            AND i.path[cardinality(i.path) - 1] = f.id
    ) AS inside ON true
    LEFT JOIN LATERAL (
        SELECT {counted} FROM {members} WHERE m.settled IS NULL AND f.completed_at IS NULL
    ) AS live ON true
    WHERE f.kind = 'workflow'
    """  # noqa: S608 - the name of the schema is quoted
