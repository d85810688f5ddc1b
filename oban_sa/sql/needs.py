"""What members wait for that are counted anew: a part of a settler's statement (`oban_sa.sql.settle`)."""

from __future__ import annotations

from typing import Final

from oban_sa.sql.met import failure, met, of_flow

CANCELLED: Final = "the workflow was cancelled"
"""Why a member never can run that joins a workflow after that, or was left there."""

NEEDS: Final = f"""needs AS MATERIALIZED (
    SELECT child_id, CAST(count(*) FILTER (WHERE unmet) AS integer) AS waiting, min(failure) AS failure,
        max(after) AS after, max(retried) AS retried, bool_or(attempted) AS attempted, bool_or(fresh) AS fresh
    FROM (
        SELECT job_id AS child_id, false AS unmet, CAST(NULL AS text) AS failure, after, retried, attempted, fresh
        FROM found WHERE recounted
        UNION ALL
        SELECT child_id, NOT {met("state", "forgives")}, {failure("state", "forgives", "name")},
            NULL, NULL, false, false
        FROM (
            SELECT e.child_id, e.forgives, p.name, CASE
                WHEN (SELECT by_job FROM ends) ? CAST(e.parent_id AS text)
                THEN (SELECT by_job FROM ends) ->> CAST(e.parent_id AS text)
                ELSE p.settled
            END AS state
            FROM found f
            CROSS JOIN LATERAL (SELECT * FROM {{s}}.oban_sa_edges e WHERE e.child_id = f.job_id OFFSET 0) AS e
            LEFT JOIN {{s}}.oban_sa_members p ON p.job_id = e.parent_id
            WHERE f.recounted
            UNION ALL
            SELECT g.child_id, g.forgives, coalesce(w.name, w.kind),
                CASE WHEN c.id IS NULL THEN {of_flow("w.completed_at", "w")} ELSE c.after END
            FROM found f
            CROSS JOIN LATERAL (SELECT * FROM {{s}}.oban_sa_gates g WHERE g.child_id = f.job_id OFFSET 0) AS g
            LEFT JOIN {{s}}.oban_sa_flows w ON w.id = g.flow_id
            LEFT JOIN counted c ON c.id = g.flow_id
            WHERE f.recounted
        ) AS dependency
        UNION ALL
        SELECT f.job_id, false, '{CANCELLED}', NULL, NULL, false, false
        FROM found f
        JOIN {{s}}.oban_sa_flows w ON w.id = f.flow_id
        JOIN {{s}}.oban_sa_flows a ON a.id = ANY (w.path)
        WHERE f.joined AND (a.cancelled_at IS NOT NULL OR a.id IN (SELECT flow_id FROM cut))
    ) AS each GROUP BY child_id
)"""  # noqa: S608 - all of it is written here, but for the name of the schema, which is quoted
