"""Signals to jobs: send them, wait for them, and wake the jobs that are suspended for one.

    signal's transaction:      row in oban_sa_signals, and a note in the lane `WAKING`
    suspension's statement:    the job's row says `suspended` or `scheduled`, and which signal for; and a note
    a settler:                 deletes notes, and makes the jobs available that wait for a signal that is there

Neither of the first two waits for the other, so that a signal may be sent in a transaction of any length. Whichever
commits last, its note is booked by a statement whose snapshot sees both. A note says nothing itself: it does no harm
where a job does not wait, or was woken before.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    Double,
    Integer,
    SmallInteger,
    Text,
    TextClause,
    bindparam,
    insert,
    literal_column,
    select,
    text,
)

from oban_sa.catalog.names import in_text
from oban_sa.jobs.durable import WAIT_UNTIL, WAITS_FOR, WAKING
from oban_sa.jobs.flow import LANES
from oban_sa.sql.cancel_request import MARK
from oban_sa.sql.expressions import inline
from oban_sa.sql.flow import endings
from oban_sa.sql.notify import TURNS
from oban_sa.sql.steps import ONE_ATTEMPT, held_by_one

_OVER: Final = "('completed', 'cancelled', 'discarded')"

_TOLD: Final = """
    (SELECT pg_notify(CAST(:channel AS text), '{"noted"\\: true}') WHERE CAST(:announcing AS boolean)) AS told
"""


def note_wait(acked: CTE) -> CTE:
    """A `Follower`: leave a note for each job that is suspended for a signal, which may have come meanwhile."""
    return (
        insert(endings)
        .from_select(
            ["lane", "job_id"],
            select(literal_column(str(WAKING), SmallInteger), acked.c.id).where(
                acked.c.meta.op("->>")(inline(f"'{WAITS_FOR}'")).is_not(None),
                acked.c.state.in_([literal_column("'suspended'"), literal_column("'scheduled'")]),
            ),
        )
        .cte("noted_wait")
    )


@lru_cache(maxsize=16)
def wait(schema: str) -> TextClause:
    """Take the oldest signal of a name, or open the wait for one: one row.

    `held` says whether the attempt holds its job; without `locked`, another transaction had the job's row locked, and
    nothing was done. Else `code`, `value`, `done`, `seconds` and `ms` are those of the entry in the journal, which is
    done where there was a signal, whose `value` is an object of `payload` and `sent_at`, or where the time is up. A
    signal that is taken is deleted. Parameters: those of `ONE_ATTEMPT`, `key`, `name`, and `within`, seconds from the
    first wait on, or NULL.
    """
    s, held = in_text(schema), held_by_one()
    return text(
        f"""
        WITH held AS MATERIALIZED (SELECT j.id FROM {s}.oban_jobs j WHERE {held} FOR SHARE SKIP LOCKED),
        entry AS MATERIALIZED (
            SELECT e.code, e.value, e.done, e.until FROM {s}.oban_sa_journal e
            WHERE e.job_id = CAST(:job_id AS bigint) AND e.name = CAST(:key AS text)
        ),
        taken AS (
            DELETE FROM {s}.oban_sa_signals s WHERE s.id = (
                SELECT x.id FROM {s}.oban_sa_signals x
                WHERE x.job_id = CAST(:job_id AS bigint) AND x.name = CAST(:name AS text) ORDER BY x.id LIMIT 1
            ) AND EXISTS (SELECT FROM held) AND NOT EXISTS (SELECT FROM entry WHERE done)
            RETURNING s.payload, s.sent_at
        ),
        clock AS MATERIALIZED (SELECT timezone('UTC', clock_timestamp()) AS now),
        moment AS MATERIALIZED (
            SELECT now, CASE WHEN EXISTS (SELECT FROM entry) THEN (SELECT until FROM entry)
                ELSE now + CAST(:within AS double precision) * interval '1 second' END AS until
            FROM clock
        ),
        written AS (
            INSERT INTO {s}.oban_sa_journal AS e (job_id, name, code, value, until, done, attempt, recorded_at)
            SELECT h.id, CAST(:key AS text), 'wait_for',
                (SELECT jsonb_build_object('payload', t.payload, 'sent_at', t.sent_at) FROM taken t), m.until,
                EXISTS (SELECT FROM taken) OR coalesce(m.until <= m.now, false), CAST(:attempt AS integer), m.now
            FROM held h CROSS JOIN moment m
            ON CONFLICT (job_id, name) DO UPDATE SET value = excluded.value, done = excluded.done,
                attempt = excluded.attempt, recorded_at = excluded.recorded_at
            WHERE NOT e.done
            RETURNING code, value, done, until
        ),
        there AS MATERIALIZED (
            SELECT code, value, done, until FROM written
            UNION ALL SELECT code, value, done, until FROM entry WHERE done
        )
        SELECT EXISTS (SELECT FROM {s}.oban_jobs j WHERE {held}) AS held, EXISTS (SELECT FROM held) AS locked,
            t.code, CAST(t.value AS text) AS value, t.done,
            CAST(extract(epoch FROM t.until - c.now) AS double precision) AS seconds,
            CAST(extract(epoch FROM t.until) * 1000 AS bigint) AS ms
        FROM clock c LEFT JOIN there t ON true
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        *ONE_ATTEMPT,
        bindparam("key", type_=Text()),
        bindparam("name", type_=Text()),
        bindparam("within", type_=Double()),
    )


@lru_cache(maxsize=16)
def send(schema: str) -> TextClause:
    """Send a signal to a job that is not over: a row of its `state`, NULL where there is no such job.

    Parameters: `job_id`, `name`, `payload` (JSON as text), `channel`, and whether it is `announcing`.
    """
    s = in_text(schema)
    return text(
        f"""
        WITH job AS MATERIALIZED (
            SELECT j.id, CAST(j.state AS text) AS state FROM {s}.oban_jobs j WHERE j.id = CAST(:job_id AS bigint)
        ),
        sent AS (
            INSERT INTO {s}.oban_sa_signals (job_id, name, payload)
            SELECT id, CAST(:name AS text), CAST(CAST(:payload AS text) AS jsonb) FROM job WHERE state NOT IN {_OVER}
            RETURNING job_id
        ),
        noted AS (INSERT INTO {s}.oban_sa_endings (lane, job_id) SELECT {WAKING}, job_id FROM sent)
        SELECT (SELECT state FROM job) AS state, {_TOLD}
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("job_id", type_=BigInteger()),
        *(bindparam(name, type_=Text()) for name in ("name", "payload", "channel")),
        bindparam("announcing", type_=Boolean()),
    )


@lru_cache(maxsize=16)
def sent(schema: str) -> TextClause:
    """Leave notes for the signals that a flush has written: a row of `id` and `state` for each of their jobs.

    Parameters: `ids`, a JSON array of ids as text, which all drivers send alike, `channel`, `announcing`.
    """
    s = in_text(schema)
    return text(
        f"""
        WITH asked AS MATERIALIZED (
            SELECT DISTINCT CAST(x.id AS bigint) AS id
            FROM json_array_elements_text(CAST(CAST(:ids AS text) AS json)) AS x(id)
        ),
        noted AS (INSERT INTO {s}.oban_sa_endings (lane, job_id) SELECT {WAKING}, id FROM asked)
        SELECT a.id, CAST(j.state AS text) AS state, {_TOLD}
        FROM asked a LEFT JOIN {s}.oban_jobs j ON j.id = a.id
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        *(bindparam(name, type_=Text()) for name in ("ids", "channel")), bindparam("announcing", type_=Boolean())
    )


@lru_cache(maxsize=16)
def wake(schema: str) -> TextClause:
    """Book up to `limit` notes of the lane `WAKING`; the row is that of `oban_sa.sql.settle.settle`.

    A job whose cancellation was asked for just as it was suspended is cancelled here. Parameters: `lane`, `limit`,
    `after`, above which ids of notes are looked for, `channel` and `announcing`.
    """
    s = in_text(schema)
    waits = f"CAST(j.state AS text) IN ('suspended', 'scheduled') AND j.meta ->> '{WAITS_FOR}' IS NOT NULL"
    marked = f"coalesce(j.meta ->> '{MARK}' >= to_jsonb(j.attempted_at) #>> '{{}}', false)"
    come = f"EXISTS (SELECT FROM {s}.oban_sa_signals x WHERE x.job_id = j.id AND x.name = j.meta ->> '{WAITS_FOR}')"
    return text(
        f"""
        WITH due AS MATERIALIZED (
            DELETE FROM {s}.oban_sa_endings WHERE lane = CAST(:lane AS smallint) AND id = ANY (ARRAY(
                SELECT id FROM {s}.oban_sa_endings
                WHERE lane = CAST(:lane AS smallint) AND id > CAST(:after AS bigint)
                ORDER BY id LIMIT CAST(:limit AS integer)
            ))
            RETURNING id, job_id
        ),
        ready AS MATERIALIZED (
            SELECT j.id, {marked} AS marked FROM {s}.oban_jobs j
            WHERE j.id = ANY (ARRAY(SELECT DISTINCT job_id FROM due WHERE job_id IS NOT NULL))
                AND {waits} AND ({marked} OR {come})
        ),
        free AS MATERIALIZED (
            SELECT j.id FROM {s}.oban_jobs j WHERE j.id = ANY (ARRAY(SELECT id FROM ready)) AND {waits}
            FOR NO KEY UPDATE SKIP LOCKED
        ),
        released AS (
            UPDATE {s}.oban_jobs j SET state = 'available', scheduled_at = timezone('UTC', clock_timestamp()),
                meta = j.meta - '{WAITS_FOR}' - '{WAIT_UNTIL}'
            WHERE j.id = ANY (ARRAY(SELECT id FROM free EXCEPT SELECT id FROM ready WHERE marked))
            RETURNING j.queue
        ),
        cancelled AS (
            UPDATE {s}.oban_jobs j SET state = 'cancelled', cancelled_at = timezone('UTC', clock_timestamp()),
                meta = j.meta - '{WAITS_FOR}' - '{WAIT_UNTIL}'
            WHERE j.id = ANY (ARRAY(SELECT id FROM free INTERSECT SELECT id FROM ready WHERE marked))
            RETURNING j.id, j.meta
        ),
        ended AS (
            INSERT INTO {s}.oban_sa_endings (lane, job_id)
            SELECT CAST(c.meta ->> 'lane' AS smallint), c.id FROM cancelled c
            WHERE c.meta ->> 'lane' ~ '^[0-{LANES - 1}]$'
        ),
        again AS (
            INSERT INTO {s}.oban_sa_endings (lane, job_id)
            SELECT CAST(:lane AS smallint), id FROM ready WHERE id NOT IN (SELECT id FROM free)
            RETURNING 1
        ),
        told AS (
            SELECT count(pg_notify(CAST(:channel AS text), CAST(json_build_object(
                'queue', queue, 'jobs', jobs, 'turn', CAST(floor(random() * {TURNS}) AS integer)
            ) AS text))) AS queues
            FROM (
                SELECT queue, count(*) AS jobs FROM released WHERE CAST(:announcing AS boolean) GROUP BY queue
            ) AS each
        )
        SELECT (SELECT count(*) FROM due) AS noted,
            ARRAY(SELECT CAST(:lane AS smallint) FROM due HAVING count(*) > 0) AS lanes,
            ARRAY(SELECT max(id) FROM due HAVING count(*) > 0) AS reached,
            (SELECT count(*) FROM released) AS released, (SELECT count(*) FROM cancelled) AS cancelled,
            (SELECT count(*) FROM again) AS again, 0 AS put_off, 0 AS closed, (SELECT queues FROM told) AS told
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("lane", type_=SmallInteger()),
        bindparam("limit", type_=Integer()),
        bindparam("after", type_=BigInteger()),
        bindparam("channel", type_=Text()),
        bindparam("announcing", type_=Boolean()),
    )
