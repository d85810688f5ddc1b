"""Delete trees of flows that are over, with the jobs of their members: as a whole, or not at all.

A large tree is deleted in slices, each in a transaction of its own, and its flows with the last one. What is left in
between is no harm: each slice takes with it what other members waited for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Integer,
    Text,
    TextClause,
    Uuid,
    bindparam,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.keys import HALTS
from oban_sa.jobs.retention import Rule
from oban_sa.jobs.states import JobState
from oban_sa.models.readable import EARLIEST, LATEST

OF_MEMBERS: Final = (
    ("oban_sa_members", "job_id"),
    ("oban_sa_edges", "parent_id"),
    ("oban_sa_edges", "child_id"),
    ("oban_sa_gates", "child_id"),
)
"""Tables, and the columns with ids of jobs, whose rows go with the members; each column begins an index."""

_STATE: Final = {
    JobState.COMPLETED: "f.discarded = 0 AND f.cancelled = 0",
    JobState.CANCELLED: "f.discarded = 0 AND f.cancelled > 0",
    JobState.DISCARDED: "f.discarded > 0",
}
"""How a tree ended, by the counters of its root."""

_AT: Final = f"greatest(least(f.completed_at, {LATEST}), {EARLIEST})"
"""When a tree ended, as Python can read it whatever another program wrote."""

_OVER: Final = "f.id = f.root_id AND f.completed_at IS NOT NULL"


@lru_cache(maxsize=16)
def too_many_trees(schema: str, state: JobState) -> TextClause:
    """When the newest tree of a state ended that is one too many, as `at`; no row where there are not too many.

    Parameter: `keep`.
    """
    return text(
        f"""
        SELECT {_AT} AS at FROM {in_text(schema)}.oban_sa_flows f WHERE {_OVER} AND {_STATE[state]}
        ORDER BY f.completed_at DESC OFFSET CAST(:keep AS bigint) LIMIT 1
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("keep", type_=BigInteger()))


@lru_cache(maxsize=16)
def due(schema: str, state: JobState) -> TextClause:
    """The oldest trees of a state, `limit` at most: rows of `id`, `lane`, `total` and `at`, when the tree ended.

    Parameters: `since` (or NULL) and `at`, between which they ended; `held`, ids of trees that can't be deleted.
    """
    return text(
        f"""
        SELECT f.id, f.lane, f.total, {_AT} AS at FROM {in_text(schema)}.oban_sa_flows f
        WHERE {_OVER} AND {_STATE[state]}
            AND f.completed_at >= coalesce(CAST(:since AS timestamp), CAST('-infinity' AS timestamp))
            AND f.completed_at <= CAST(:at AS timestamp) AND f.id <> ALL (CAST(:held AS uuid[]))
        ORDER BY f.completed_at LIMIT CAST(:limit AS integer)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("since", type_=DateTime()),
        bindparam("at", type_=DateTime()),
        bindparam("held", type_=ARRAY(Uuid())),
        bindparam("limit", type_=Integer()),
    )


def keeping(rules: Iterable[Rule]) -> str:
    """Say as JSON which members keep their tree, because their queue or worker has a rule: the parameter `keeping`.

    A count of jobs to keep keeps no tree: which ones are counted would depend on the trees.
    """
    return json.dumps(
        [
            {
                "state": rule.state.value,
                "queue": rule.queue,
                "worker": rule.worker,
                "but_workers": list(rule.but_workers),
                "age": rule.retention.age,
            }
            for rule in rules
            if (rule.queue or rule.worker) and (rule.retention.forever or rule.retention.age is not None)
        ]
    )


_MAY_GO: Final = f"""
CAST(j.state AS text) IN ('completed', 'cancelled', 'discarded')
AND NOT (CAST(j.state AS text) = 'discarded' AND coalesce(j.meta ? '{HALTS}', false))
AND NOT EXISTS (
    SELECT FROM jsonb_to_recordset(CAST(CAST(:keeping AS text) AS jsonb))
        AS kept(state text, queue text, worker text, but_workers jsonb, age float8)
    WHERE kept.state = CAST(j.state AS text)
        AND coalesce(kept.queue = j.queue, true) AND coalesce(kept.worker = j.worker, true)
        AND NOT kept.but_workers ? j.worker
        AND coalesce(
            coalesce(j.completed_at, j.cancelled_at, j.discarded_at)
                > timezone('UTC', now()) - make_interval(secs => kept.age),
            true
        )
)
"""


@lru_cache(maxsize=16)
def has_kept(schema: str) -> TextClause:
    """Whether a tree has a job that is not over, or kept for longer: one row of `found`.

    Parameters: `root`, `keeping`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT EXISTS (
            SELECT FROM ({_flows(s, "= CAST(:root AS uuid)")}) AS f
            JOIN {s}.oban_sa_members m ON m.flow_id = f.id
            JOIN {s}.oban_jobs j ON j.id = m.job_id
            WHERE NOT ({_MAY_GO})
        ) AS found
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("root", type_=Uuid()), bindparam("keeping", type_=Text()))


@lru_cache(maxsize=16)
def choose(schema: str) -> TextClause:
    """Lock trees that ended up to `at`, and their jobs, and wait for none: a row of what can be deleted.

    `roots` are the trees, and `ids` the jobs of their members. Where `whole`, a tree is left out if one of its jobs is
    locked, not over or kept for longer; else such a job alone is. Looks at `limit` members (NULL for all) behind those
    of `flow` and `name`; `seen` is how many these are, `last_flow` and `last_name` the last of them.

    The lanes of the trees have to be locked by a statement before, so that no settler books members of them meanwhile.
    Parameters: `roots`, `at`, `whole`, `flow`, `name`, `limit`, `keeping`.
    """
    s = in_text(schema)
    return text(_CHOOSE.format(s=s, may_go=_MAY_GO)).bindparams(
        bindparam("roots", type_=ARRAY(Uuid())),
        bindparam("at", type_=DateTime()),
        bindparam("whole", type_=Boolean()),
        bindparam("flow", type_=Uuid()),
        bindparam("name", type_=Text()),
        bindparam("limit", type_=Integer()),
        bindparam("keeping", type_=Text()),
    )


_CHOOSE: Final = """
WITH
roots AS MATERIALIZED (
    SELECT id FROM {s}.oban_sa_flows WHERE id = ANY (CAST(:roots AS uuid[])) AND completed_at <= CAST(:at AS timestamp)
    FOR UPDATE SKIP LOCKED
),
inner_ AS MATERIALIZED (
    SELECT id, root_id FROM {s}.oban_sa_flows WHERE root_id = ANY (ARRAY(SELECT id FROM roots)) AND id <> root_id
    FOR UPDATE SKIP LOCKED
),
locked AS MATERIALIZED (
    SELECT f.root_id FROM {s}.oban_sa_flows f
    WHERE f.root_id = ANY (ARRAY(SELECT id FROM roots)) AND f.id <> f.root_id AND f.id NOT IN (SELECT id FROM inner_)
),
flows AS MATERIALIZED (
    SELECT id, root_id FROM (SELECT id, id AS root_id FROM roots UNION ALL SELECT id, root_id FROM inner_) AS each
    WHERE root_id NOT IN (SELECT root_id FROM locked)
    ORDER BY id
),
members AS MATERIALIZED (
    SELECT f.root_id, f.id AS flow_id, m.job_id, m.name
    FROM (SELECT * FROM flows WHERE id >= CAST(:flow AS uuid) ORDER BY id) AS f
    CROSS JOIN LATERAL (
        SELECT m.job_id, m.name FROM {s}.oban_sa_members m
        WHERE m.flow_id = f.id AND m.name > CASE WHEN f.id = CAST(:flow AS uuid) THEN CAST(:name AS text) ELSE '' END
        ORDER BY m.name LIMIT CAST(:limit AS integer)
    ) AS m
    LIMIT CAST(:limit AS integer)
),
free AS MATERIALIZED (
    SELECT j.id FROM {s}.oban_jobs j WHERE j.id = ANY (ARRAY(SELECT job_id FROM members)) AND {may_go}
    FOR UPDATE SKIP LOCKED
),
kept AS MATERIALIZED (
    SELECT j.id FROM {s}.oban_jobs j
    WHERE j.id = ANY (ARRAY(SELECT job_id FROM members)) AND j.id NOT IN (SELECT id FROM free)
),
staying AS MATERIALIZED (
    SELECT root_id FROM members WHERE CAST(:whole AS boolean) AND job_id IN (SELECT id FROM kept)
)
SELECT
    ARRAY(SELECT id FROM flows WHERE id = root_id AND root_id NOT IN (SELECT root_id FROM staying)) AS roots,
    ARRAY(
        SELECT job_id FROM members
        WHERE job_id NOT IN (SELECT id FROM kept) AND root_id NOT IN (SELECT root_id FROM staying)
    ) AS ids,
    (SELECT count(*) FROM members) AS seen,
    (SELECT flow_id FROM members ORDER BY flow_id DESC, name DESC LIMIT 1) AS last_flow,
    (SELECT name FROM members ORDER BY flow_id DESC, name DESC LIMIT 1) AS last_name
"""


def _flows(schema: str, chosen: str) -> str:
    """The flows of trees, each found by an index."""
    # The name of the schema is quoted.
    return (
        f"SELECT id, root_id FROM {schema}.oban_sa_flows WHERE id {chosen} "  # noqa: S608
        f"UNION ALL SELECT id, root_id FROM {schema}.oban_sa_flows WHERE root_id {chosen} AND id <> root_id"
    )


@lru_cache(maxsize=16)
def delete_members(schema: str) -> TextClause:
    """Delete members with their jobs and dependencies: a row of `completed`, `cancelled` and `discarded`, the jobs.

    Parameter: `ids`.
    """
    s = in_text(schema)
    gone = [
        # The names are written above, but for that of the schema, which is quoted.
        f"gone{number} AS (DELETE FROM {s}.{table} WHERE {column} = ANY (CAST(:ids AS bigint[])))"  # noqa: S608
        for number, (table, column) in enumerate(OF_MEMBERS)
    ]
    counts = ", ".join(f"count(*) FILTER (WHERE state = '{state.value}') AS {state.value}" for state in _STATE)
    return text(
        f"""
        WITH {", ".join(gone)}, deleted AS (
            DELETE FROM {s}.oban_jobs WHERE id = ANY (CAST(:ids AS bigint[])) RETURNING CAST(state AS text) AS state
        )
        SELECT {counts} FROM deleted
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())))


@lru_cache(maxsize=16)
def delete_flows(schema: str) -> TextClause:
    """Delete the flows of trees that have no members left, and what waits for them: a row of `count`, the trees.

    Parameter: `roots`.
    """
    s = in_text(schema)
    return text(
        f"""
        WITH found AS MATERIALIZED ({_flows(s, "= ANY (CAST(:roots AS uuid[]))")}),
        staying AS MATERIALIZED (
            SELECT DISTINCT f.root_id FROM found f
            WHERE EXISTS (SELECT FROM {s}.oban_sa_members m WHERE m.flow_id = f.id)
        ),
        empty AS MATERIALIZED (SELECT id FROM found WHERE root_id NOT IN (SELECT root_id FROM staying)),
        gates AS (DELETE FROM {s}.oban_sa_gates WHERE flow_id = ANY (ARRAY(SELECT id FROM empty))),
        deleted AS (
            DELETE FROM {s}.oban_sa_flows WHERE id = ANY (ARRAY(SELECT id FROM empty)) RETURNING id = root_id AS root
        )
        SELECT count(*) FILTER (WHERE root) AS count FROM deleted
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("roots", type_=ARRAY(Uuid())))
