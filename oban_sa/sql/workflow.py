"""Look at workflows, choose their members, retry them, and find what ended without a note."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import BigInteger, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.durable import WAIT_UNTIL, WAITS_FOR
from oban_sa.jobs.flow import LANES, RETRIED
from oban_sa.models.readable import EARLIEST, LATEST
from oban_sa.sql.cancel_request import MARK
from oban_sa.sql.flow import WAITS

STATUS: Final = (
    *("id", "path", "kind", "name", "total", "unfinished", "completed", "cancelled", "discarded"),
    *("inserted_at", "started_at", "completed_at", "duration"),
)
"""What is told of each flow; moments are naive, in UTC, and `duration` is in seconds."""


_DURATION: Final = (
    "CAST(extract(epoch FROM coalesce(completed_at, timezone('UTC', clock_timestamp())) - started_at) AS float8) "
    "AS duration"
)
"""Of columns that were read already: PostgreSQL refuses to subtract what is infinite."""


@lru_cache(maxsize=16)
def status(schema: str) -> TextClause:
    """A flow and all flows inside of it, itself first: rows of `STATUS`. Parameter: `id`."""
    flows = f"{in_text(schema)}.oban_sa_flows"
    return text(
        f"""
        SELECT *, {_DURATION} FROM (
            SELECT {_columns()} FROM {flows} f WHERE f.id = CAST(:id AS uuid) OR (
                f.id <> f.root_id AND f.root_id = (SELECT root_id FROM {flows} WHERE id = CAST(:id AS uuid))
                AND CAST(:id AS uuid) = ANY (f.path)
            )
        ) AS f
        ORDER BY id <> CAST(:id AS uuid), cardinality(path), id
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("id", type_=Uuid()))


def _columns() -> str:
    return ", ".join(_readable(name) if name.endswith("_at") else f"f.{name}" for name in STATUS[:-1])


def _readable(name: str) -> str:
    return (
        f"CASE WHEN f.{name} > {LATEST} THEN {LATEST} WHEN f.{name} < {EARLIEST} THEN {EARLIEST} ELSE f.{name} END "
        f"AS {name}"
    )


@lru_cache(maxsize=16)
def newest(schema: str) -> TextClause:
    """The newest workflows and batches, without those inside others: rows of `STATUS`, at most `limit` of them.

    Parameters: `limit`; `name` and `state`, either of which may be NULL.
    """
    state = (
        "CASE WHEN f.completed_at IS NULL THEN 'executing' WHEN f.discarded > 0 THEN 'discarded' "
        "WHEN f.cancelled > 0 THEN 'cancelled' ELSE 'completed' END"
    )
    return text(
        f"""
        SELECT *, {_DURATION} FROM (
            SELECT {_columns()} FROM {in_text(schema)}.oban_sa_flows f
            WHERE f.id = f.root_id
                AND (CAST(:name AS text) IS NULL OR f.name = CAST(:name AS text))
                AND (CAST(:state AS text) IS NULL OR {state} = CAST(:state AS text))
            ORDER BY f.id DESC LIMIT CAST(:limit AS integer)
        ) AS f
        ORDER BY id DESC
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("name", type_=Text()), bindparam("state", type_=Text()), bindparam("limit", type_=Integer()))


@lru_cache(maxsize=16)
def open_for(schema: str) -> TextClause:
    """Keep a flow from being over until this transaction ends: rows of it and of those around it, the root first.

    Columns: `id`, `root_id`, `path`, `kind`, `name`, `completed_at`, `has_context`, and `on_attempt`, whether a
    callback waits for attempts. Waits for a settler that is just closing it. Parameter: `flow`.
    """
    flows = f"{in_text(schema)}.oban_sa_flows"
    return text(
        f"""
        SELECT f.id, f.root_id, f.path, f.kind, f.name, f.completed_at, f.context IS NOT NULL AS has_context,
            f.callbacks -> 'on_attempt' IS NOT NULL AS on_attempt
        FROM {flows} f
        WHERE f.id = ANY (ARRAY(SELECT unnest(path) FROM {flows} WHERE id = CAST(:flow AS uuid)))
        ORDER BY cardinality(f.path)
        FOR KEY SHARE
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flow", type_=Uuid()))


@lru_cache(maxsize=16)
def parts(schema: str) -> TextClause:
    """The members of a flow, and the flows right inside it, that have some names: `name`, `job_id` or `flow_id`.

    `before` is JSON of what a flow that may be empty waits for itself: `parents` and `gates`, with what it forgives.
    Parameters: `flow`, and `names`, an array.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT name, job_id, CAST(NULL AS uuid) AS flow_id, NULL AS before FROM {s}.oban_sa_members
        WHERE flow_id = CAST(:flow AS uuid) AND name = ANY (CAST(:names AS text[]))
        UNION ALL
        SELECT name, NULL, id, CASE WHEN meta ? 'parents' THEN CAST(meta AS text) END FROM {s}.oban_sa_flows
        WHERE id <> root_id AND root_id = (SELECT root_id FROM {s}.oban_sa_flows WHERE id = CAST(:flow AS uuid))
            AND path[cardinality(path) - 1] = CAST(:flow AS uuid) AND name = ANY (CAST(:names AS text[]))
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flow", type_=Uuid()), bindparam("names", type_=ARRAY(Text())))


@lru_cache(maxsize=16)
def some_names(schema: str) -> TextClause:
    """The names of some of a flow's members, and of the flows right inside it, for a hint. Parameter: `flow`."""
    s = in_text(schema)
    return text(
        f"""
        (SELECT name FROM {s}.oban_sa_members WHERE flow_id = CAST(:flow AS uuid) LIMIT 200)
        UNION ALL
        (SELECT name FROM {s}.oban_sa_flows
        WHERE id <> root_id AND root_id = (SELECT root_id FROM {s}.oban_sa_flows WHERE id = CAST(:flow AS uuid))
            AND path[cardinality(path) - 1] = CAST(:flow AS uuid) AND name IS NOT NULL LIMIT 200)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flow", type_=Uuid()))


@lru_cache(maxsize=16)
def cut(schema: str) -> TextClause:
    """Note that a flow was cancelled, so that what joins it later is cancelled too. Parameters: `lane`, `flow`."""
    return text(
        f"INSERT INTO {in_text(schema)}.oban_sa_endings (lane, flow_id, recount) "  # noqa: S608 - quoted
        "VALUES (CAST(:lane AS smallint), CAST(:flow AS uuid), true)"
    ).bindparams(bindparam("lane", type_=Integer()), bindparam("flow", type_=Uuid()))


@lru_cache(maxsize=16)
def members(schema: str) -> TextClause:
    """The jobs of some flows: rows of `job_id`. Parameter: `flows`, an array of ids."""
    return text(
        f"SELECT job_id FROM {in_text(schema)}.oban_sa_members "  # noqa: S608 - the name of the schema is quoted
        "WHERE flow_id = ANY (CAST(:flows AS uuid[])) ORDER BY job_id"
    ).bindparams(bindparam("flows", type_=ARRAY(Uuid())))


@lru_cache(maxsize=16)
def named(schema: str) -> TextClause:
    """The members that a name in a flow means: rows of `job_id`.

    That is a member, also one of a group or graft right inside, or all members of a flow right inside. Parameters:
    `flow` and `name`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT job_id FROM {s}.oban_sa_members WHERE flow_id = CAST(:flow AS uuid) AND name = CAST(:name AS text)
        UNION
        SELECT m.job_id FROM {s}.oban_sa_flows f
        JOIN {s}.oban_sa_members m ON m.flow_id = f.id AND m.name = CAST(:name AS text)
        WHERE f.kind IN ('group', 'graft')
            AND f.root_id = (SELECT root_id FROM {s}.oban_sa_flows WHERE id = CAST(:flow AS uuid))
            AND f.path[cardinality(f.path) - 1] = CAST(:flow AS uuid)
        UNION
        SELECT m.job_id FROM {s}.oban_sa_flows f
        JOIN {s}.oban_sa_flows inside ON f.id = ANY (inside.path) AND inside.root_id = f.root_id
        JOIN {s}.oban_sa_members m ON m.flow_id = inside.id
        WHERE f.id <> f.root_id AND f.name = CAST(:name AS text)
            AND f.root_id = (SELECT root_id FROM {s}.oban_sa_flows WHERE id = CAST(:flow AS uuid))
            AND f.path[cardinality(f.path) - 1] = CAST(:flow AS uuid)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("flow", type_=Uuid()), bindparam("name", type_=Text()))


@lru_cache(maxsize=16)
def dependants(schema: str) -> TextClause:
    """Some members and all that wait for them, directly or not: rows of `job_id`. Parameter: `ids`."""
    s = in_text(schema)
    return text(
        f"""
        WITH RECURSIVE found (job_id) AS (
            SELECT unnest(CAST(:ids AS bigint[]))
            UNION
            SELECT next.child_id FROM found
            JOIN {s}.oban_sa_members m ON m.job_id = found.job_id
            JOIN {s}.oban_sa_flows f ON f.id = m.flow_id
            CROSS JOIN LATERAL (
                SELECT e.child_id FROM {s}.oban_sa_edges e WHERE e.parent_id = found.job_id
                UNION ALL
                SELECT g.child_id FROM {s}.oban_sa_gates g WHERE g.flow_id = ANY (f.path)
            ) AS next
        )
        SELECT job_id FROM found ORDER BY job_id
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())))


@lru_cache(maxsize=16)
def order(schema: str) -> TextClause:
    """What some members wait for: rows of `child_id` and `parent_id`, or `flow_id`, or of `parent_id` and `flow_id`.

    The last are for all flows that a member is in. Parameter: `ids`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT child_id, parent_id, CAST(NULL AS uuid) AS flow_id FROM {s}.oban_sa_edges
        WHERE child_id = ANY (CAST(:ids AS bigint[])) AND parent_id = ANY (CAST(:ids AS bigint[]))
        UNION ALL
        SELECT child_id, NULL, flow_id FROM {s}.oban_sa_gates WHERE child_id = ANY (CAST(:ids AS bigint[]))
        UNION ALL
        SELECT NULL, m.job_id, around.id
        FROM {s}.oban_sa_members m
        JOIN {s}.oban_sa_flows f ON f.id = m.flow_id
        CROSS JOIN LATERAL unnest(f.path) AS around(id)
        WHERE m.job_id = ANY (CAST(:ids AS bigint[]))
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())))


@lru_cache(maxsize=16)
def retry(schema: str) -> TextClause:
    """Suspend members that have ended in some states, and have a settler count what they wait for: rows of `id`.

    It releases at once those that wait for nothing. Members that have not ended stay as they are. One that was
    cancelled while it waited for a signal waits for other members now, and the signal must not wake it. The rows come
    in the order in which the members are counted. Parameters: `ids`, each after those that it waits for, since notes
    may be booked in several statements; `states`, `attempts`, the least that each has left, `lane`, and `anew`: the id
    of the flow where callbacks are to run again, else NULL, as it is where it is not given.
    """
    s = in_text(schema)
    return text(
        f"""
        WITH chosen AS MATERIALIZED (
            SELECT j.id, wanted.place
            FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS wanted(id, place)
            JOIN {s}.oban_jobs j ON j.id = wanted.id
            WHERE CAST(j.state AS text) = ANY (CAST(:states AS text[]))
            ORDER BY j.id FOR UPDATE OF j
        ),
        changed AS (
            UPDATE {s}.oban_jobs j SET
                state = 'suspended',
                max_attempts = greatest(j.max_attempts, j.attempt + CAST(:attempts AS integer)),
                scheduled_at = timezone('UTC', clock_timestamp()),
                completed_at = NULL, cancelled_at = NULL, discarded_at = NULL,
                meta = (j.meta - '{MARK}' - '{WAITS_FOR}' - '{WAIT_UNTIL}') || jsonb_build_object('{RETRIED}', 1 + CASE
                    WHEN j.meta ->> '{RETRIED}' ~ '^[0-9]{{1,8}}$' THEN CAST(j.meta ->> '{RETRIED}' AS integer) ELSE 0
                END)
            FROM chosen WHERE j.id = chosen.id
            RETURNING j.id, chosen.place
        ),
        noted AS (
            INSERT INTO {s}.oban_sa_endings (lane, job_id, flow_id, recount)
            SELECT CAST(:lane AS smallint), id, CAST(:anew AS uuid), true FROM changed ORDER BY place
        )
        SELECT id FROM changed ORDER BY place
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("ids", type_=ARRAY(BigInteger())),
        bindparam("states", type_=ARRAY(Text())),
        bindparam("attempts", type_=Integer()),
        bindparam("lane", type_=Integer()),
        bindparam("anew", None, type_=Uuid()),
    )


@lru_cache(maxsize=16)
def sweep(schema: str) -> TextClause:
    """Note members that have ended and were not booked, as where another member of the family acked them.

    Reads up to `limit` members of flows that are not over, which come after `after_flow` and `after_name` in the order
    of the flow's id and the member's name. A row of `flow` and `name`, the last of these, both NULL where there are
    fewer and so none behind them, and of `noted`, how many notes were left.
    """
    s = in_text(schema)
    return text(
        f"""
        WITH looked AS MATERIALIZED (
            SELECT m.flow_id, m.name, m.job_id, f.lane, m.settled IS NULL AND m.waiting = 0 AS released
            FROM (
                SELECT id, lane FROM {s}.oban_sa_flows
                WHERE completed_at IS NULL AND id >= CAST(:after_flow AS uuid)
                ORDER BY id OFFSET 0
            ) AS f
            CROSS JOIN LATERAL (
                SELECT * FROM {s}.oban_sa_members
                WHERE flow_id = f.id AND (f.id > CAST(:after_flow AS uuid) OR name > CAST(:after_name AS text))
                ORDER BY name OFFSET 0
            ) AS m
            LIMIT CAST(:limit AS integer)
        ),
        noted AS (
            INSERT INTO {s}.oban_sa_endings (lane, job_id)
            SELECT l.lane, l.job_id FROM looked l
            LEFT JOIN {s}.oban_jobs j ON j.id = l.job_id
            WHERE l.released AND l.lane BETWEEN 0 AND {LANES - 1} AND (
                j.id IS NULL OR CAST(j.state AS text) IN ('completed', 'cancelled', 'discarded') OR ({WAITS})
            )
            RETURNING 1
        ),
        last AS (
            SELECT flow_id, name FROM looked WHERE (SELECT count(*) FROM looked) >= CAST(:limit AS integer)
            ORDER BY flow_id DESC, name DESC LIMIT 1
        )
        SELECT (SELECT flow_id FROM last) AS flow, (SELECT name FROM last) AS name,
            (SELECT count(*) FROM noted) AS noted
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("after_flow", type_=Uuid()),
        bindparam("after_name", type_=Text()),
        bindparam("limit", type_=Integer()),
    )
