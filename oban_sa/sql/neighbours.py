"""What stands around one job: its workflow, what it waits for there, and who holds its unique key."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import BigInteger, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text


@lru_cache(maxsize=16)
def membership(schema: str) -> TextClause:
    """The flow that a job is a member of, and those around it, the root first.

    Rows of `id`, `kind`, `flow`, its name, and `member`, `waiting`, `doomed`. Parameter: `id`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT f.id, f.kind, f.name AS flow, m.name AS member, m.waiting, m.doomed
        FROM {s}.oban_sa_members m
        JOIN {s}.oban_sa_flows own ON own.id = m.flow_id
        JOIN {s}.oban_sa_flows f ON f.id = ANY (own.path)
        WHERE m.job_id = CAST(:id AS bigint)
        ORDER BY cardinality(f.path)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("id", type_=BigInteger()))


@lru_cache(maxsize=16)
def waits_for(schema: str) -> TextClause:
    """What a member waits for and has not ended: rows of `id`, a job's, or `flow_id`, and `name`, `worker`, `state`.

    At most 50. Parameter: `id`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT j.id, CAST(NULL AS uuid) AS flow_id, m.name, j.worker, CAST(j.state AS text) AS state
        FROM {s}.oban_sa_edges e
        JOIN {s}.oban_jobs j ON j.id = e.parent_id
        LEFT JOIN {s}.oban_sa_members m ON m.job_id = e.parent_id
        WHERE e.child_id = CAST(:id AS bigint) AND j.state NOT IN ('completed', 'cancelled', 'discarded')
        UNION ALL
        SELECT NULL, f.id, f.name, f.kind, 'executing'
        FROM {s}.oban_sa_gates g JOIN {s}.oban_sa_flows f ON f.id = g.flow_id
        WHERE g.child_id = CAST(:id AS bigint) AND f.completed_at IS NULL
        LIMIT 50
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("id", type_=BigInteger()))


@lru_cache(maxsize=16)
def holder(schema: str) -> TextClause:
    """The job that holds a unique key: `job_id`, or no row. Parameter: `key`."""
    return text(
        f"SELECT job_id FROM {in_text(schema)}.oban_sa_uniques WHERE key = CAST(:key AS uuid)"  # noqa: S608 - it is quoted
    ).bindparams(bindparam("key", type_=Uuid()))


@lru_cache(maxsize=16)
def first_of_sequence(schema: str) -> TextClause:
    """The jobs of a sequence that stand before one: rows of `id`, `state`, `worker`; the first five.

    Parameters: `queue`, `key` and `id`.
    """
    return text(
        f"""
        SELECT id, CAST(state AS text) AS state, worker FROM {in_text(schema)}.oban_jobs
        WHERE queue = CAST(:queue AS text) AND meta ->> 'sequence' = CAST(:key AS text) AND id < CAST(:id AS bigint)
            AND meta ? 'sequence'
            AND (state IN ('available', 'scheduled', 'executing', 'retryable', 'suspended')
                OR (state = 'discarded' AND meta ? 'halts'))
        ORDER BY id LIMIT 5
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("id", type_=BigInteger()))


@lru_cache(maxsize=16)
def flows(schema: str) -> TextClause:
    """The outermost workflows and batches, the last made first: rows of what is told of each.

    Parameters: `before` and `limit`. Ids begin with the time, so the primary key leads to them;
    of those before an id, at most `limit`.
    """
    return text(
        f"""
        SELECT f.id, f.kind, f.name, f.total, f.unfinished, f.completed, f.cancelled, f.discarded,
            f.inserted_at, f.started_at, f.completed_at
        FROM {in_text(schema)}.oban_sa_flows f
        WHERE f.id < CAST(:before AS uuid) AND f.id = f.root_id
        ORDER BY f.id DESC LIMIT CAST(:limit AS integer)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("before", type_=Uuid()))


@lru_cache(maxsize=16)
def flow_members(schema: str) -> TextClause:
    """The members of some flows: what is known of each, and the `state`, `worker` and `queue` of its job, or NULLs.

    Parameters: `flows`, an array of ids, and `limit`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT m.job_id, m.flow_id, m.name, m.waiting, m.doomed, m.settled,
            CAST(j.state AS text) AS state, j.worker, j.queue
        FROM {s}.oban_sa_members m LEFT JOIN {s}.oban_jobs j ON j.id = m.job_id
        WHERE m.flow_id = ANY (CAST(:flows AS uuid[]))
        ORDER BY m.job_id LIMIT CAST(:limit AS integer)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flows", type_=ARRAY(Uuid())))


@lru_cache(maxsize=16)
def links(schema: str) -> TextClause:
    """What some members wait for: rows of `child_id`, and `parent_id` or `flow_id`. Parameter: `ids`."""
    s = in_text(schema)
    return text(
        f"""
        SELECT child_id, parent_id, CAST(NULL AS uuid) AS flow_id FROM {s}.oban_sa_edges
        WHERE child_id = ANY (CAST(:ids AS bigint[]))
        UNION ALL
        SELECT child_id, NULL, flow_id FROM {s}.oban_sa_gates WHERE child_id = ANY (CAST(:ids AS bigint[]))
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())))
