"""What running members of workflows may know of what they waited for: how that ended, and what it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from sqlalchemy import BigInteger, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text

LARGE: Final = 1_000_000
"""Characters of a recorded value that is not read until the code asks for it."""

FIRST: Final = 100
"""Dependencies that are read before the code begins; of more, none is until the code asks for them."""


def first(jobs: Sequence[int]) -> dict[str, object]:
    """The parameters of `dependencies` for what is read of some members before their code begins."""
    return {"jobs": jobs, "limit": FIRST + 1, "large": LARGE}


def _recorded(alias: str) -> str:
    """What a job recorded, as its meta has it; NULL where it recorded nothing."""
    return f"CASE WHEN {alias}.meta ->> 'recorded' = 'true' THEN {alias}.meta ->> 'return' END"


@lru_cache(maxsize=16)
def dependencies(schema: str) -> TextClause:
    """What some members waited for, and the contexts of their workflows.

    Rows of `job_id`, the member, and `kind`, `name`, `depth`, `flow_id`, `total`, `state`, `recorded` and `size`. The
    kind is `job`, the kind of a flow that was waited for as a whole, `place`, a graft that it may fill, or `context`;
    `recorded` of the last two is JSON. `state` is a letter as in `oban_sa_members.settled`. `depth` is that of the flow
    that the name stands in: of two alike the deeper is meant. `size` are the characters that were recorded, NULL where
    nothing was or the job is gone; what has more than `large` is left out. Parameters: `jobs`, `limit` of the jobs that
    each waited for, and `large`.

    Each row is found by a key, also by a plan that is kept: with OFFSET 0 the planner joins in no other way.
    """
    s = in_text(schema)
    value = _recorded("j")
    return text(
        f"""
        WITH mine AS MATERIALIZED (
            SELECT m.job_id, m.flow_id, m.holds, f.depth,
                CASE WHEN f.root_id <> m.flow_id THEN f.root_id END AS root_id,
                CASE WHEN f.root_id = m.flow_id THEN f.context END AS context
            FROM {s}.oban_sa_members m
            CROSS JOIN LATERAL (
                SELECT root_id, cardinality(path) AS depth, context FROM {s}.oban_sa_flows WHERE id = m.flow_id OFFSET 0
            ) AS f
            WHERE m.job_id = ANY (CAST(:jobs AS bigint[]))
        )
        SELECT mine.job_id, each.* FROM mine CROSS JOIN LATERAL (
            (
                SELECT 'job' AS kind, p.name,
                    CASE WHEN p.flow_id = mine.flow_id THEN mine.depth
                        ELSE coalesce((SELECT cardinality(path) FROM {s}.oban_sa_flows WHERE id = p.flow_id), 0)
                    END AS depth,
                    p.flow_id, CAST(NULL AS integer) AS total, p.settled AS state,
                    CASE WHEN length(j.value) <= CAST(:large AS integer) THEN j.value END AS recorded,
                    length(j.value) AS size
                FROM {s}.oban_sa_edges e
                CROSS JOIN LATERAL (
                    SELECT name, flow_id, settled FROM {s}.oban_sa_members WHERE job_id = e.parent_id OFFSET 0
                ) AS p
                LEFT JOIN LATERAL (
                    SELECT {value} AS value FROM {s}.oban_jobs j WHERE j.id = e.parent_id OFFSET 0
                ) AS j ON true
                WHERE e.child_id = mine.job_id
                LIMIT CAST(:limit AS integer)
            )
            UNION ALL
            SELECT w.kind, w.name, cardinality(w.path) - 1, w.id, w.total,
                CASE WHEN w.discarded > 0 THEN 'd' WHEN w.cancelled > 0 THEN 'x' ELSE 'c' END, NULL, NULL
            FROM {s}.oban_sa_gates g
            CROSS JOIN LATERAL (SELECT * FROM {s}.oban_sa_flows WHERE id = g.flow_id OFFSET 0) AS w
            WHERE g.child_id = mine.job_id
            UNION ALL
            SELECT 'place', w.name, 0, w.id, NULL, NULL,
                CAST(jsonb_build_object('root', w.root_id) || w.meta AS text), NULL
            FROM (SELECT unnest(mine.holds) AS id) AS held
            CROSS JOIN LATERAL (SELECT * FROM {s}.oban_sa_flows WHERE id = held.id OFFSET 0) AS w
            UNION ALL
            SELECT 'context', NULL, 0, mine.flow_id, NULL, NULL, CAST(mine.context AS text), NULL
            WHERE mine.context IS NOT NULL
            UNION ALL
            SELECT 'context', NULL, 0, r.id, NULL, NULL, CAST(r.context AS text), NULL
            FROM {s}.oban_sa_flows r WHERE r.id = mine.root_id AND r.context IS NOT NULL
        ) AS each
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("jobs", type_=ARRAY(BigInteger())),
        bindparam("limit", type_=Integer()),
        bindparam("large", type_=Integer()),
    )


@lru_cache(maxsize=16)
def recorded_by(schema: str) -> TextClause:
    """What those of a flow's own members recorded that have some names and were completed: `name`, `recorded`.

    Parameters: `flow`, and `names`, an array.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT m.name, {_recorded("j")} AS recorded
        FROM {s}.oban_sa_members m JOIN {s}.oban_jobs j ON j.id = m.job_id
        WHERE m.flow_id = CAST(:flow AS uuid) AND m.name = ANY (CAST(:names AS text[])) AND m.settled = 'c'
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flow", type_=Uuid()), bindparam("names", type_=ARRAY(Text())))


@lru_cache(maxsize=16)
def recorded_in(schema: str) -> TextClause:
    """What the completed members of a flow and of those inside it recorded: `flow_id`, `name`, `recorded`.

    They are in the order of `flow_id` and `name`, at most `limit` of them, and come after `after_flow` and
    `after_name`. Parameters: these, and `flow`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT m.flow_id, m.name, {_recorded("j")} AS recorded
        FROM {s}.oban_sa_members m JOIN {s}.oban_jobs j ON j.id = m.job_id
        WHERE m.flow_id = ANY (ARRAY(
            SELECT f.id FROM {s}.oban_sa_flows f WHERE f.id = CAST(:flow AS uuid) OR (
                f.id <> f.root_id AND CAST(:flow AS uuid) = ANY (f.path)
                AND f.root_id = (SELECT root_id FROM {s}.oban_sa_flows WHERE id = CAST(:flow AS uuid))
            )
        )) AND (m.flow_id, m.name) > (CAST(:after_flow AS uuid), CAST(:after_name AS text)) AND m.settled = 'c'
        ORDER BY m.flow_id, m.name LIMIT CAST(:limit AS integer)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("flow", type_=Uuid()),
        bindparam("after_flow", type_=Uuid()),
        bindparam("after_name", type_=Text()),
        bindparam("limit", type_=Integer()),
    )
