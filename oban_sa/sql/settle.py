"""Book what has become of the members of flows, and let go on what waited for them.

What ended has left a note in `oban_sa_endings` (`oban_sa.sql.flow.note`). A settler locks lanes, deletes some notes of
them, and does in one statement all that follows from what the jobs are by now:

    notes -> members that ended, or are to be counted anew        found
          -> counters of their flows, and of the flows around     counted
          -> jobs that a batch makes of what happens to it        called
          -> dependencies that are met or failed by it            met -> now, put_off
          -> members that waited for them                         children
          -> suspended jobs that may run, or never can            ready -> released, cancelled
          -> notes of what was cancelled, or is locked            again

A note says nothing of how a job ended. The job's row does, as the statement finds it. So notes may come twice, late and
in any order, and what another program did to a job is booked like everything else.

Only settlers change what they count, one at a time for each lane; a transaction that seals callbacks anew holds rows of
flows for a moment. The snapshot has to be younger than the lock of the lane: it must see what the settler before has
booked. So the lock is a statement before.

PostgreSQL changes no row twice in one statement and drops the second change without a word. So a member that ended in
the same statement as one it waits for is left out of `children`, and one that is counted anew is left out too.

What joins later, a graft or one that is appended, is written with `waiting` NULL and a note. A graft is one more
unfinished for the member that may fill it, its holder. When that ends, what it has grafted is counted in the same
statement, whichever notes are found first. A flow is over only if its row can be locked: a transaction that appends to
it has a share of that lock. A note of a flow with `recount` says that it was cancelled: then what is left of it is
cancelled, and what joins later. Where rows of that are locked, the flow gets the note once more, and what waits is
doomed already, so that nothing else releases it meanwhile.

Ids of notes are in order within a transaction, and one may be committed after others with higher ids. So notes of a
retry, which have to be booked in their order, are left until all notes of the lane are looked for.

A retry of members resets their jobs, and asks by a note to count them anew. Before that note is booked, `waiting` is
that of the time before, and an older note must not release the job by it. So a job says in its meta how often it was
retried, and its member how often that was counted.

Thousands may wait for one member. Released by one statement, their rows would stand at the head of each queue for as
long as that runs, and each fetch would look at all of them in vain. So only some are counted down, and each of the
others gets a note that has both ids and no `recount`: count anew what it waits for. Until then its `waiting` is too
high, and it begins late and not early; so what is to wait for more is never put off. Such a note says nothing of the
member's own retry, which may have a note of its own that has to be booked first.

What is stored costs as much as what is looked up. What an UPDATE joins is narrow, since it keeps whole rows of that.

CTEs are joined with tables by a key of the table, and not with each other: a CTE has no statistics, and the planner
would compare each row of one with each of the other. Where that can't be helped they are looked up as a hashed list, or
as keys of one JSON object. Where a key is not unique, OFFSET 0 keeps the planner from reading all of the table instead:
once thousands wait for one member, it expects as many for each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import BigInteger, Boolean, Integer, SmallInteger, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.flow import ATTEMPT, RETRIED
from oban_sa.sql.callbacks import COUNTERS, EVENTS, FIRED, OVER, by, now
from oban_sa.sql.flow import WAITS
from oban_sa.sql.met import failure, met, of_flow
from oban_sa.sql.needs import CANCELLED, NEEDS
from oban_sa.sql.notify import TURNS
from oban_sa.sql.sums import SUMS

LIMIT: Final = 1000
"""Notes that one statement books, and members that it counts down for what they wait for."""


@lru_cache(maxsize=16)
def settle(schema: str) -> TextClause:
    """Book up to `limit` notes of some `lanes`, whose locks have to be held; those of the first lanes first.

    A row of `noted`, how many notes there were; `lanes` and `reached`, arrays of the lanes that had some and of the
    highest of their ids; `released` and `cancelled`, how many jobs were; `called`, how many callbacks of batches were
    made; `again`, how many notes it leaves of what was cancelled or is locked; `put_off`, how many of members that it
    has not counted yet; and `closed`, how many flows are over by it. Only notes with ids above those in `afters`, one
    for each lane, are looked for. Where `announcing`, queues of jobs that may run are announced on `channel`.
    """
    s = in_text(schema)
    return text(_SETTLE.format(s=s, turns=TURNS)).bindparams(
        bindparam("lanes", type_=ARRAY(SmallInteger())),
        bindparam("limit", type_=Integer()),
        bindparam("afters", type_=ARRAY(BigInteger())),
        bindparam("channel", type_=Text()),
        bindparam("announcing", type_=Boolean()),
    )


_LANES: Final = "CAST(:lanes AS smallint[])"

_LANE: Final = f"CASE WHEN f.lane = ANY ({_LANES}) THEN f.lane ELSE ({_LANES})[1] END"
"""The lane for what is left to be booked of a flow `f`: its own, or one that is booked here where there is no flow."""

_UNSTARTED: Final = "CAST(j.state AS text) IN ('suspended', 'available', 'scheduled', 'retryable')"

_SETTLE: Final = f"""
WITH
due AS MATERIALIZED (
    DELETE FROM {{s}}.oban_sa_endings WHERE ctid = ANY (ARRAY(
        SELECT e.ctid
        FROM unnest(CAST(:lanes AS smallint[]), CAST(:afters AS bigint[])) AS each(lane, after)
        CROSS JOIN LATERAL (
            SELECT n.ctid FROM {{s}}.oban_sa_endings n
            WHERE n.lane = each.lane AND n.id > each.after AND (each.after = 0 OR NOT n.recount)
            ORDER BY n.id LIMIT CAST(:limit AS integer)
        ) AS e LIMIT CAST(:limit AS integer)
    ))
    RETURNING lane, id, job_id, flow_id, recount
),
reached AS MATERIALIZED (
    SELECT lane, max(id) AS id FROM due GROUP BY lane
),
mine AS MATERIALIZED (
    SELECT m.job_id, m.flow_id, m.name, m.waiting, m.doomed, m.settled, m.attempted, m.holds,
        m.job_id IN (SELECT job_id FROM due WHERE job_id IS NOT NULL AND recount) AS recount,
        m.job_id IN (SELECT job_id FROM due WHERE job_id IS NOT NULL AND recount AND flow_id IS NOT NULL) AS anew,
        m.job_id IN (SELECT job_id FROM due WHERE job_id IS NOT NULL AND NOT recount AND flow_id IS NOT NULL) AS put_off
    FROM {{s}}.oban_sa_members m WHERE m.job_id = ANY (ARRAY(SELECT job_id FROM due WHERE job_id IS NOT NULL))
),
cut AS MATERIALIZED (
    SELECT DISTINCT flow_id FROM due WHERE flow_id IS NOT NULL AND job_id IS NULL AND recount
),
found AS MATERIALIZED (
    SELECT m.job_id, m.recount OR m.waiting IS NULL OR m.put_off AS recounted, m.settled AS before,
        CASE
            WHEN CAST(j.state AS text) = 'completed' THEN 'c'
            WHEN CAST(j.state AS text) = 'cancelled' THEN 'x'
            WHEN CAST(j.state AS text) = 'discarded' THEN 'd'
            WHEN j.id IS NULL THEN coalesce(m.settled, 'g')
            WHEN m.recount THEN NULL
            ELSE m.settled
        END AS after,
        NOT m.attempted AND (
            j.id IS NULL
            OR j.meta ? '{ATTEMPT}' AND (j.attempt > 0 OR CAST(j.state AS text) IN ('cancelled', 'discarded'))
        ) AS attempted,
        coalesce({WAITS}, false) AS suspended,
        m.waiting, m.doomed, m.flow_id, m.waiting IS NULL AS joined, j.attempted_at, m.recount AS retrying, m.anew,
        m.recount OR m.waiting IS NULL AS fresh,
        CASE WHEN j.meta ->> '{RETRIED}' ~ '^[0-9]{{{{1,8}}}}$' THEN CAST(j.meta ->> '{RETRIED}' AS integer) END
            AS retried,
        m.holds, m.name
    FROM (
        SELECT * FROM mine
        UNION ALL
        SELECT g.job_id, g.flow_id, g.name, g.waiting, g.doomed, g.settled, g.attempted, g.holds, false, false, false
        FROM (SELECT DISTINCT unnest(holds) AS id FROM mine WHERE holds IS NOT NULL) AS held
        CROSS JOIN LATERAL (
            SELECT * FROM {{s}}.oban_sa_members m WHERE m.flow_id = held.id AND m.waiting IS NULL OFFSET 0
        ) AS g
        WHERE g.job_id NOT IN (SELECT job_id FROM mine)
    ) AS m
    LEFT JOIN {{s}}.oban_jobs j ON j.id = m.job_id
),
{SUMS},
closable AS MATERIALIZED (
    SELECT f.id FROM {{s}}.oban_sa_flows f
    WHERE f.completed_at IS NULL AND f.id = ANY (ARRAY(SELECT id FROM was WHERE ends))
    FOR UPDATE SKIP LOCKED
),
counted AS MATERIALIZED (
    UPDATE {{s}}.oban_sa_flows f SET
        {", ".join(f"{name} = {now(name)}" for name in COUNTERS)},
        started_at = least(f.started_at, a.started_at),
        completed_at = CASE WHEN {OVER} THEN coalesce(f.completed_at, timezone('UTC', clock_timestamp())) END,
        unique_name = CASE WHEN f.completed_at IS NULL AND NOT ({OVER}) THEN f.unique_name END,
        cancelled_at = CASE
            WHEN f.id IN (SELECT flow_id FROM cut) THEN coalesce(f.cancelled_at, timezone('UTC', clock_timestamp()))
            WHEN NOT a.retried THEN f.cancelled_at
        END,
        fired = CASE WHEN f.callbacks IS NULL THEN f.fired ELSE {FIRED} || ARRAY(
            SELECT e.name FROM {EVENTS} WHERE e.happens AND f.callbacks ? e.name AND e.name <> ALL (f.fired)
        ) END
    FROM was a
    WHERE f.id = a.id
    RETURNING f.id, a.before, {of_flow("f.completed_at", "f")} AS after, f.unfinished, f.completed_at, f.callbacks,
        CASE WHEN a.anew THEN ARRAY(SELECT unnest(f.fired) EXCEPT SELECT unnest(a.former))
            ELSE f.fired[cardinality(a.former) + 1:] END AS events,
        f.lane, f.kind, f.name
),
called AS (
    INSERT INTO {{s}}.oban_jobs (worker, queue, args, meta, tags, priority, max_attempts, state)
    SELECT t.worker, t.queue, t.args, t.meta || jsonb_build_object('batch_id', c.id, 'batch_event', e.name), t.tags,
        t.priority, t.max_attempts, 'available'
    FROM counted c
    CROSS JOIN LATERAL unnest(c.events) AS e(name)
    CROSS JOIN LATERAL jsonb_to_record(c.callbacks -> e.name) AS t(
        worker text, queue text, args jsonb, meta jsonb, tags text[], priority integer, max_attempts integer
    )
    WHERE c.callbacks IS NOT NULL AND jsonb_typeof(c.callbacks -> e.name) = 'object'
    RETURNING queue
),
met AS MATERIALIZED (
    SELECT child_id, CAST(sum(step) AS integer) AS step, min(failure) AS failure FROM (
        SELECT e.child_id,
            CAST({met("f.after", "e.forgives")} AS integer) - CAST({met("f.before", "e.forgives")} AS integer)
                AS step,
            {failure("f.after", "e.forgives", "f.name")} AS failure
        FROM found f
        CROSS JOIN LATERAL (SELECT * FROM {{s}}.oban_sa_edges e WHERE e.parent_id = f.job_id OFFSET 0) AS e
        WHERE f.before IS DISTINCT FROM f.after
        UNION ALL
        SELECT g.child_id,
            CAST({met("c.after", "g.forgives")} AS integer) - CAST({met("c.before", "g.forgives")} AS integer),
            {failure("c.after", "g.forgives", "coalesce(c.name, c.kind)")}
        FROM counted c
        CROSS JOIN LATERAL (SELECT * FROM {{s}}.oban_sa_gates g WHERE g.flow_id = c.id OFFSET 0) AS g
        WHERE c.before IS DISTINCT FROM c.after
    ) AS each GROUP BY child_id
),
now AS MATERIALIZED (
    SELECT child_id, step, failure FROM met WHERE step < 0
    UNION ALL
    (SELECT child_id, step, failure FROM met WHERE step >= 0 LIMIT CAST(:limit AS integer))
),
ends AS MATERIALIZED (
    SELECT coalesce(jsonb_object_agg(job_id, after), CAST('{{{{}}}}' AS jsonb)) AS by_job
    FROM found WHERE before IS DISTINCT FROM after
),
{NEEDS},
stray AS MATERIALIZED (
    SELECT m.job_id, inside.cut FROM (
        SELECT flow_id AS id, flow_id AS cut FROM cut
        UNION
        SELECT f.id, c.id FROM cut
        JOIN {{s}}.oban_sa_flows c ON c.id = cut.flow_id
        JOIN {{s}}.oban_sa_flows f ON f.root_id = c.root_id AND f.id <> f.root_id AND c.id = ANY (f.path)
    ) AS inside
    JOIN {{s}}.oban_sa_members m ON m.flow_id = inside.id
    WHERE m.settled IS NULL AND m.waiting IS NOT NULL AND m.job_id NOT IN (SELECT job_id FROM found)
),
booked AS (
    UPDATE {{s}}.oban_sa_members m SET settled = f.after, attempted = m.attempted OR f.attempted
    FROM (
        SELECT job_id, after, attempted FROM found
        WHERE NOT recounted AND (attempted OR before IS DISTINCT FROM after) OFFSET 0
    ) AS f
    WHERE m.job_id = f.job_id
),
recounted AS MATERIALIZED (
    UPDATE {{s}}.oban_sa_members m
    SET settled = n.after, waiting = n.waiting, attempted = m.attempted OR n.attempted,
        doomed = CASE WHEN n.fresh THEN n.failure ELSE coalesce(m.doomed, n.failure) END,
        retried = CASE WHEN n.fresh THEN coalesce(n.retried, m.retried) ELSE m.retried END
    FROM needs n
    WHERE m.job_id = n.child_id
    RETURNING m.job_id, m.waiting, m.doomed
),
children AS MATERIALIZED (
    UPDATE {{s}}.oban_sa_members m SET waiting = {by("m.waiting", "-t.step")}, doomed = coalesce(
        m.doomed, CASE WHEN m.job_id IN (SELECT job_id FROM stray) THEN '{CANCELLED}' END, t.failure
    )
    FROM now t
    WHERE m.job_id = t.child_id AND m.settled IS NULL AND m.waiting IS NOT NULL
        AND m.job_id NOT IN (SELECT job_id FROM found WHERE recounted OR before IS DISTINCT FROM after)
    RETURNING m.job_id, m.waiting, m.doomed
),
ready AS MATERIALIZED (
    SELECT job_id, min(doomed) AS doomed FROM (
        SELECT job_id, waiting, doomed FROM children
        UNION ALL
        SELECT job_id, waiting, doomed FROM recounted
        UNION ALL
        SELECT job_id, waiting, doomed FROM found
        WHERE suspended AND NOT recounted AND job_id NOT IN (SELECT child_id FROM met)
        UNION ALL
        SELECT job_id, 0, '{CANCELLED}' FROM stray
    ) AS each WHERE waiting <= 0 OR doomed IS NOT NULL GROUP BY job_id
),
free AS MATERIALIZED (
    SELECT j.id FROM {{s}}.oban_jobs j
    WHERE j.id = ANY (ARRAY(SELECT job_id FROM ready))
        AND CASE
            WHEN j.id IN (SELECT job_id FROM stray)
            THEN {_UNSTARTED}
            ELSE {WAITS} AND (
                NOT j.meta ? '{RETRIED}' OR j.id IN (SELECT job_id FROM found WHERE fresh)
                OR j.meta ->> '{RETRIED}' = (
                    SELECT CAST(m.retried AS text) FROM {{s}}.oban_sa_members m WHERE m.job_id = j.id
                )
            )
        END
    FOR UPDATE SKIP LOCKED
),
held AS MATERIALIZED (
    SELECT s.job_id, s.cut
    FROM stray s JOIN {{s}}.oban_jobs j ON j.id = s.job_id AND {_UNSTARTED}
    WHERE s.job_id NOT IN (SELECT id FROM free)
),
kept AS (
    UPDATE {{s}}.oban_sa_members m SET doomed = '{CANCELLED}'
    WHERE m.job_id = ANY (ARRAY(SELECT job_id FROM held EXCEPT SELECT child_id FROM now)) AND m.doomed IS NULL
),
released AS (
    UPDATE {{s}}.oban_jobs j SET
        state = CAST(CASE WHEN j.scheduled_at > timezone('UTC', clock_timestamp()) THEN 'scheduled' ELSE 'available' END
            AS {{s}}.oban_job_state)
    WHERE j.id = ANY (ARRAY(SELECT id FROM free EXCEPT SELECT job_id FROM ready WHERE doomed IS NOT NULL))
    RETURNING j.queue, CAST(j.state AS text) AS state
),
why AS MATERIALIZED (
    SELECT coalesce(jsonb_object_agg(job_id, doomed), CAST('{{{{}}}}' AS jsonb)) AS words
    FROM ready WHERE doomed IS NOT NULL
),
cancelled AS (
    UPDATE {{s}}.oban_jobs j SET
        state = 'cancelled',
        cancelled_at = timezone('UTC', clock_timestamp()),
        errors = j.errors || jsonb_build_object(
            'at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'attempt', j.attempt,
            'error', 'DependencyFailed: ' || ((SELECT words FROM why) ->> CAST(j.id AS text))
        )
    WHERE j.id = ANY (ARRAY(SELECT id FROM free INTERSECT SELECT job_id FROM ready WHERE doomed IS NOT NULL))
    RETURNING j.id
),
again AS (
    INSERT INTO {{s}}.oban_sa_endings (lane, job_id, flow_id, recount)
    SELECT {_LANE}, each.id, CAST(NULL AS uuid), false
    FROM (
        SELECT id FROM cancelled
        UNION ALL
        SELECT r.job_id
        FROM ready r JOIN {{s}}.oban_jobs j ON j.id = r.job_id AND {WAITS} WHERE r.job_id NOT IN (SELECT id FROM free)
    ) AS each
    LEFT JOIN {{s}}.oban_sa_members m ON m.job_id = each.id
    LEFT JOIN {{s}}.oban_sa_flows f ON f.id = m.flow_id
    UNION ALL
    SELECT {_LANE}, NULL, f.id, false FROM counted f WHERE f.unfinished = 0 AND f.completed_at IS NULL
    UNION ALL
    SELECT {_LANE}, NULL, f.id, true FROM {{s}}.oban_sa_flows f WHERE f.id = ANY (ARRAY(SELECT cut FROM held))
    RETURNING 1
),
put_off AS (
    INSERT INTO {{s}}.oban_sa_endings (lane, job_id, flow_id)
    SELECT {_LANE}, m.job_id, m.flow_id
    FROM (SELECT child_id FROM met WHERE step >= 0 OFFSET CAST(:limit AS integer)) AS each
    JOIN {{s}}.oban_sa_members m ON m.job_id = each.child_id
    LEFT JOIN {{s}}.oban_sa_flows f ON f.id = m.flow_id
    WHERE m.settled IS NULL AND m.waiting IS NOT NULL
    RETURNING 1
),
told AS (
    SELECT count(pg_notify(CAST(:channel AS text), CAST(json_build_object(
        'queue', queue, 'jobs', jobs, 'turn', CAST(floor(random() * {{turns}}) AS integer)
    ) AS text))) AS queues
    FROM (
        SELECT queue, count(*) AS jobs FROM (
            SELECT queue FROM released WHERE state = 'available' UNION ALL SELECT queue FROM called
        ) AS ready WHERE CAST(:announcing AS boolean) GROUP BY queue
    ) AS each
)
SELECT
    (SELECT count(*) FROM due) AS noted,
    ARRAY(SELECT lane FROM reached) AS lanes,
    ARRAY(SELECT id FROM reached) AS reached,
    (SELECT count(*) FROM released) AS released,
    (SELECT count(*) FROM cancelled) AS cancelled,
    (SELECT count(*) FROM called) AS called,
    (SELECT count(*) FROM again) AS again,
    (SELECT count(*) FROM put_off) AS put_off,
    (SELECT count(*) FROM counted WHERE before IS NULL AND after IS NOT NULL) AS closed,
    (SELECT queues FROM told) AS told
"""  # noqa: S608 - all of it is written here, but for the name of the schema, which is quoted
