"""What is booked of each flow, and what was said of it before: a part of a settler's statement (`oban_sa.sql.settle`).

`own` has flows whose members are in `found`, or that a note names; `around`, what is also counted of flows around
these, and of grafts that a member holds. In `was` each of them stands once. Most flows are in no other, and their rows
are read once, in `own`; only those in `around` are read once more.
"""

from __future__ import annotations

from typing import Final

from oban_sa.sql.callbacks import COUNTERS
from oban_sa.sql.met import of_flow

_BEFORE: Final = f"""o.fired AS former, o.completed_at IS NULL AND o.unfinished = -x.unfinished AS ends,
        {of_flow("o.completed_at", "o")} AS before"""
"""What was said of a flow `o`, and whether it ends with what is counted of it in `x`."""

SUMS: Final = f"""own AS MATERIALIZED (
    SELECT o.id, CASE WHEN cardinality(o.path) > 1 THEN o.path[1 : cardinality(o.path) - 1] END AS outside,
        {", ".join(f"x.{name}" for name in COUNTERS)}, x.started_at, x.retried, x.anew, {_BEFORE}
    FROM (
        SELECT flow_id,
            CAST(count(*) FILTER (WHERE joined) AS integer) AS total,
            CAST(count(*) FILTER (WHERE joined) + count(*) FILTER (WHERE after IS NULL)
                - count(*) FILTER (WHERE before IS NULL) AS integer) AS unfinished,
            CAST(count(*) FILTER (WHERE after = 'c') - count(*) FILTER (WHERE before = 'c') AS integer) AS completed,
            CAST(count(*) FILTER (WHERE after = 'x') - count(*) FILTER (WHERE before = 'x') AS integer) AS cancelled,
            CAST(count(*) FILTER (WHERE after IN ('d', 'g')) - count(*) FILTER (WHERE before IN ('d', 'g')) AS integer)
                AS discarded,
            CAST(count(*) FILTER (WHERE attempted) AS integer) AS attempted,
            min(attempted_at) AS started_at, bool_or(retrying) AS retried, bool_or(anew) AS anew
        FROM (
            SELECT flow_id, joined, before, after, attempted, attempted_at, retrying, anew FROM found
            WHERE joined OR attempted OR before IS DISTINCT FROM after
            UNION ALL
            SELECT flow_id, false, NULL, NULL, false, NULL, false, false
            FROM due WHERE flow_id IS NOT NULL AND job_id IS NULL
        ) AS each GROUP BY flow_id
    ) AS x
    JOIN {{s}}.oban_sa_flows o ON o.id = x.flow_id
),
around AS MATERIALIZED (
    SELECT unnest(outside) AS id, {", ".join(COUNTERS)}, started_at, retried, anew
    FROM own WHERE outside IS NOT NULL
    UNION ALL
    SELECT unnest(holds), 0, CAST(after IS NULL AS integer) - CAST(before IS NULL AS integer), 0, 0, 0, 0,
        NULL, false, false
    FROM found WHERE holds IS NOT NULL
),
was AS MATERIALIZED (
    SELECT id, {", ".join(COUNTERS)}, started_at, retried, anew, former, ends, before
    FROM own WHERE (id IN (SELECT id FROM around)) IS NOT TRUE
    UNION ALL
    SELECT x.*, {_BEFORE}
    FROM (
        SELECT id, {", ".join(f"CAST(sum({name}) AS integer) AS {name}" for name in COUNTERS)},
            min(started_at) AS started_at, bool_or(retried) AS retried, bool_or(anew) AS anew
        FROM (
            SELECT id, {", ".join(COUNTERS)}, started_at, retried, anew
            FROM own WHERE id IN (SELECT id FROM around)
            UNION ALL
            SELECT * FROM around
        ) AS each GROUP BY id
    ) AS x
    JOIN {{s}}.oban_sa_flows o ON o.id = x.id
)"""  # noqa: S608 - all of it is written here, but for the name of the schema, which is quoted
