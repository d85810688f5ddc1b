"""The functions that walk the ring of a queue's keys, and choose the jobs that a fetch takes."""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.choice import choice
from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.functions.isolation import only_read_committed
from oban_sa.catalog.functions.usual import usual
from oban_sa.catalog.names import literal, quoted

_PARAMETERS: Final = (
    ("of_queue", "text"),
    ("demand", "integer"),
    ("each", "integer"),
    ("bursts", "boolean"),
    ("in_turn", "boolean"),
    ("heavy", "text[]"),
    ("weights", "integer[]"),
    ("rate", "text"),
    ("weighing", "text[]"),
    ("unknown", "text[]"),
    ("overdue", "text[]"),
    ("unknown_after", "double precision"),
    ("moment", "timestamp without time zone"),
    ("cursor", "text"),
)
_RETURNING: Final = (
    "TABLE (ids bigint[], held_keys text[], held_weights integer[], skipped integer, next_in float8, last_key text)"
)

KEYS: Final = 200
"""Keys that one fetch locks at most: the server has room for 64 locks for each connection, as it is delivered."""

PASSED: Final = 400
"""Keys that one fetch looks at, whether it may take their jobs or not. The next one goes on from there."""

_WAITING: Final = "j.state = 'available' AND j.meta ? 'partition' AND j.queue = of_queue"
"""As the partial index has it."""
_KEY: Final = "(j.meta ->> 'partition')"

ELIGIBLE: Final = """(
    j.attempt < j.max_attempts AND (unknown IS NULL OR NOT (
        j.worker = ANY (unknown) OR j.worker || E'\\n' || coalesce(j.meta ->> 'args_version', '1') = ANY (unknown)
    ) OR (
        j.scheduled_at <= timezone('UTC', now()) - unknown_after * interval '1 second' AND (
            j.worker = ANY (overdue) OR j.worker || E'\\n' || coalesce(j.meta ->> 'args_version', '1') = ANY (overdue)
        )
    ))
)"""
"""Whether a job may be taken, as `NOT_SPENT` of `oban_sa.sql.fetch` and `known` of `oban_sa.sql.unknown_workers`."""


def _body(schema: str) -> str:
    """Return the code of the function.

    It is told how many jobs are wanted, how many of `each` key may execute at once (NULL sets no limit), whether keys
    may burst, whether they take their jobs `in_turn`, the `weights` of some keys, which are named in `heavy` in the
    same order, the `rate` of each key as JSON (the parameters of `oban_sa_rate` by name, with `name` for the rate's, or
    NULL) and as `weighing` the path to what a job counts, or NULL; `unknown`, `overdue` and `unknown_after` as
    `oban_sa.sql.unknown_workers.known` has them, or NULL; the `moment` at which the jobs are begun, and the `cursor`
    that the last fetch returned; without one it begins anywhere.

    It returns one row: the `ids` of the jobs that may be taken; `held_keys`, the keys of which the next job is too
    heavy for what their rates have left, and what it counts, `held_weights`; how many keys were `skipped` since another
    fetch had them locked, and one more where there may be more jobs than were found; `next_in`, after how many seconds
    the rate lets a job start of a key that was passed; and the cursor for the next fetch, `last_key`. It returns no row
    where nothing is wanted.

    Each query in it has a snapshot of its own, since the function is volatile. So what executes is counted after the
    key was locked, and with the outcomes that the same statement has written. It never waits: a key that is locked is
    passed, and it locks no rows of jobs.

    The walk brings the first job of each key along, which the same entry of the index has. So where as many keys are
    found as jobs are wanted, which is the usual case, nothing more is read. Otherwise `choice` reads the shares.
    """
    jobs = f"{quoted(schema)}.oban_jobs"
    rate = (
        f"{quoted(schema)}.oban_sa_rate(rated ->> 'name', w.key, CAST(rated ->> 'n' AS integer),\n"
        "                        CAST(rated ->> 'per' AS float8), rated ->> 'algorithm',\n"
        "                        CAST(rated ->> 'burst' AS integer),"
    )
    lock = f"pg_try_advisory_xact_lock(hashtextextended({literal(jobs)} || E'\\n' || of_queue || E'\\n' || w.key, 0))"
    return f"""
        #variable_conflict use_column
        DECLARE
            said json := cursor;
            from_key text := coalesce(said ->> 'key', '');
            usual_keys text[];
            usual_count integer;
            usual_snapshot text;
        BEGIN
            IF demand <= 0 THEN
                RETURN;
            END IF;
            IF each IS NOT NULL OR rate IS NOT NULL THEN
                {only_read_committed()}
            END IF;
            IF cursor IS NULL THEN
                from_key := coalesce({_anywhere(jobs)}, '');
            END IF;
            {usual(jobs, lock=lock, executing=_executing(jobs), waiting=_WAITING, key=_KEY, most=KEYS)}
        DECLARE
            rated json := rate;
            locks boolean := each IS NOT NULL OR rated IS NOT NULL;
            used_before integer := coalesce(CAST(said ->> 'used' AS integer), 0);
            resumed json := said -> 'stopped';
            following integer := coalesce(CAST(resumed ->> 0 AS integer), -32768);
            wanted integer := least(demand, {KEYS});
            level smallint;
            position text;
            is_met boolean;
            step integer;
            room integer;
            number integer;
            furthest text;
            last_free text;
            frees_seen integer;
            candidates text[];
            heads bigint[];
            counts integer[];
            lefts integer[];
            waits float8;
            soonest float8;
            full_now text[];
            refused text[];
            passed integer := 0;
            locked integer := 0;
            closed text[] := '{{}}';
            full_keys text[] := '{{}}';
            full_levels smallint[] := '{{}}';
            keys text[] := '{{}}';
            firsts bigint[] := '{{}}';
            levels smallint[] := '{{}}';
            frees integer[] := '{{}}';
            rates integer[] := '{{}}';
            is_whole boolean := true;
            stopped json;
            upmost integer := 32767;
            moved jsonb;
            kept jsonb;
        BEGIN
            <<ring>>
            LOOP
                level := (
                    SELECT j.priority FROM {jobs} j WHERE {_WAITING} AND j.priority >= following
                    ORDER BY j.priority LIMIT 1
                );
                EXIT ring WHEN level IS NULL;
                following := level + 1;
                IF level <> CAST(resumed ->> 0 AS integer) THEN
                    resumed := NULL;
                END IF;
                -- From the cursor to the last key, and from the first key to the cursor.
                FOR lap IN coalesce(CAST(resumed ->> 1 AS integer), 0) .. 1 LOOP
                    position := CASE WHEN resumed IS NOT NULL THEN resumed ->> 2 WHEN lap = 0 THEN from_key ELSE '' END;
                    -- A key whose turn was used up comes last.
                    is_met := resumed IS NOT NULL OR (lap = 0 AND used_before = 0);
                    resumed := NULL;
                    step := wanted - cardinality(keys);
                    LOOP
                        room := wanted - cardinality(keys);
                        IF lap = 0 THEN
                            {_step(jobs, lock, upto="")}
                        ELSE
                            {_step(jobs, lock, upto=f"AND {_KEY} <= from_key")}
                        END IF;
                        EXIT WHEN number = 0;
                        passed := passed + number;
                        is_met := true;
                        position := furthest;
                        IF frees_seen > room THEN
                            position := last_free;
                            number := step;
                        END IF;
                        IF full_now IS NOT NULL THEN
                            closed := closed || full_now;
                            IF bursts THEN
                                full_keys := full_keys || full_now;
                                full_levels := full_levels || array_fill(level, ARRAY[cardinality(full_now)]);
                            END IF;
                        END IF;
                        IF refused IS NOT NULL THEN
                            closed := closed || refused;
                            locked := locked + cardinality(refused);
                        END IF;
                        IF candidates IS NULL THEN
                            counts := NULL;
                        ELSIF each IS NULL THEN
                            counts := array_fill(demand, ARRAY[cardinality(candidates)]);
                        ELSE
                            -- Again, now that no other fetch takes jobs of these keys.
                            SELECT array_agg(w.key) FILTER (WHERE w.free > 0),
                                array_agg(w.id) FILTER (WHERE w.free > 0), array_agg(w.free) FILTER (WHERE w.free > 0),
                                array_agg(w.key) FILTER (WHERE w.free <= 0)
                            INTO candidates, heads, counts, refused
                            FROM (
                                SELECT w.key, w.id, each - {_executing(jobs)} AS free
                                FROM unnest(candidates, heads) w (key, id) OFFSET 0
                            ) w;
                            closed := closed || refused;
                        END IF;
                        lefts := array_fill(demand, ARRAY[coalesce(cardinality(candidates), 0)]);
                        IF rated IS NOT NULL AND candidates IS NOT NULL THEN
                            lefts := ARRAY(
                                SELECT {rate} NULL, NULL, moment)::integer
                                FROM unnest(candidates) WITH ORDINALITY w (key, n) ORDER BY w.n
                            );
                            SELECT min({rate} 0, 1, moment)) INTO waits
                            FROM unnest(candidates, lefts) w (key, rate_left) WHERE w.rate_left <= 0;
                            soonest := least(soonest, waits);
                            SELECT array_agg(w.key) FILTER (WHERE w.rate_left > 0),
                                array_agg(w.id) FILTER (WHERE w.rate_left > 0),
                                array_agg(w.free) FILTER (WHERE w.rate_left > 0),
                                array_agg(w.rate_left) FILTER (WHERE w.rate_left > 0),
                                array_agg(w.key) FILTER (WHERE w.rate_left <= 0)
                            INTO candidates, heads, counts, lefts, refused
                            FROM unnest(candidates, heads, counts, lefts) w (key, id, free, rate_left);
                            closed := closed || refused;
                        END IF;
                        IF candidates IS NOT NULL THEN
                            keys := keys || candidates;
                            firsts := firsts || heads;
                            levels := levels || array_fill(level, ARRAY[cardinality(candidates)]);
                            frees := frees || counts;
                            rates := rates || lefts;
                        END IF;
                        IF cardinality(keys) >= wanted OR passed >= {PASSED} THEN
                            is_whole := false;
                            stopped := json_build_array(level, lap, position);
                            EXIT ring;
                        END IF;
                        EXIT WHEN number < step;
                        -- More at once only as far as keys were in vain: one that is full costs one more probe.
                        step := least(greatest(
                            wanted - cardinality(keys), 2 * (number - coalesce(cardinality(candidates), 0))
                        ), 100);
                    END LOOP;
                END LOOP;
            END LOOP;
            next_in := soonest;
            IF in_turn AND weighing IS NULL AND cardinality(keys) >= demand AND levels[1] = level
                AND NOT keys && heavy AND array_position(firsts, NULL) IS NULL
            THEN
                ids := firsts;
                skipped := locked;
                last_key := jsonb_build_object('key', keys[demand], 'used', 0);
                RETURN NEXT;
                RETURN;
            END IF;
            -- Above what each key may have only where all jobs of keys with less are seen.
            bursts := bursts AND is_whole AND locked = 0;
            IF bursts AND rated IS NOT NULL THEN
                SELECT array_agg(w.key ORDER BY w.n), array_agg(w.priority ORDER BY w.n),
                    array_agg(w.rate_left ORDER BY w.n)
                INTO full_keys, full_levels, lefts
                FROM (
                    SELECT w.*, {rate} NULL, NULL, moment)::integer AS rate_left
                    FROM (
                        SELECT w.*, {lock} AS is_mine
                        FROM unnest(full_keys, full_levels) WITH ORDINALITY w (key, priority, n)
                    ) w WHERE w.is_mine
                ) w WHERE w.rate_left > 0;
            ELSE
                lefts := array_fill(demand, ARRAY[cardinality(full_keys)]);
            END IF;
            IF bursts AND cardinality(full_keys) > 0 THEN
                keys := keys || full_keys;
                levels := levels || full_levels;
                frees := frees || array_fill(0, ARRAY[cardinality(full_keys)]);
                rates := rates || lefts;
            END IF;
            {choice(jobs, waiting=_WAITING, key=_KEY, eligible=ELIGIBLE)}
            number := coalesce(cardinality(ids), 0);
            -- There may be more than was found: the walk ended before its time, or a share was less than is there.
            skipped := locked + CAST((stopped IS NOT NULL OR upmost < 32767) AND number < demand AS integer);
            kept := coalesce(CAST(cursor AS jsonb), '{{}}') - 'stopped';
            IF number > 0 AND in_turn THEN
                last_key := moved;
            ELSIF stopped IS NULL THEN
                last_key := kept;
            ELSIF number > 0 THEN
                -- All keys that were looked at had their turn.
                last_key := jsonb_build_object('key', stopped ->> 2, 'used', 0);
            ELSE
                last_key := kept || jsonb_build_object('stopped', stopped);
            END IF;
            RETURN NEXT;
        END;
        END
    """  # noqa: S608 - the name of the schema is quoted


def _anywhere(jobs: str) -> str:
    """Return the query for a key with which a producer begins, NULL where it begins at the first one.

    Where all producers began there, they would go from key to key side by side: each would find the next
    keys locked by another, and their jobs just taken. It is the key of any job, by its id.
    """
    return f"""(
                    SELECT CASE WHEN j.queue = of_queue THEN {_KEY} END FROM (
                        SELECT j.queue, j.meta FROM {jobs} j WHERE j.id >= (
                            SELECT CAST(lowest.id + random() * (highest.id - lowest.id) AS bigint)
                            FROM (SELECT j.id FROM {jobs} j ORDER BY j.id LIMIT 1) lowest,
                                (SELECT j.id FROM {jobs} j ORDER BY j.id DESC LIMIT 1) highest
                        ) ORDER BY j.id LIMIT 1
                    ) j
                )"""  # noqa: S608 - the name of the schema is quoted


def _executing(jobs: str) -> str:
    """Return the query that counts how many jobs of the key `w.key` execute, up to `each`."""
    return (
        f"(SELECT count(*)::integer FROM (SELECT FROM {jobs} j WHERE j.state = 'executing' AND j.meta ? 'partition'\n"  # noqa: S608 - the name of the schema is quoted
        f"                                AND j.queue = of_queue AND {_KEY} = w.key LIMIT each) executing)"
    )


def _step(jobs: str, lock: str, *, upto: str) -> str:
    """Return the query that walks `step` keys on and locks those that have room, as many as there is `room` for.

    Bounds are conditions of the index, so each has a branch: as a filter, the upper one would have the last step read
    the rest of the index. What is full is found without a lock: it stays free for the fetch that finds a slot of it.
    The order of `walk` is that of the walk, and aggregates and windows keep it.
    """
    of_level = f"{_WAITING} AND j.priority = level {upto}"
    entry = f"{_KEY} AS key, CASE WHEN {ELIGIBLE} THEN j.id END AS id"
    order = f"ORDER BY {_KEY}, j.scheduled_at, j.id LIMIT 1"
    return f"""
                            WITH RECURSIVE walk (key, id, n) AS (
                                (
                                    SELECT {entry}, 1 FROM {jobs} j
                                    WHERE {of_level} AND NOT is_met AND {_KEY} >= position {order}
                                )
                                UNION ALL
                                (
                                    SELECT {entry}, 1 FROM {jobs} j
                                    WHERE {of_level} AND is_met AND {_KEY} > position {order}
                                )
                                UNION ALL
                                SELECT after.key, after.id, walk.n + 1 FROM walk CROSS JOIN LATERAL (
                                    SELECT {entry} FROM {jobs} j WHERE {of_level} AND {_KEY} > walk.key {order}
                                ) after
                                WHERE walk.n < step
                            )
                            SELECT count(*), max(w.key), max(w.key) FILTER (WHERE w.is_mine IS NOT NULL), max(w.nth),
                                array_agg(w.key) FILTER (WHERE w.is_mine), array_agg(w.id) FILTER (WHERE w.is_mine),
                                array_agg(w.key) FILTER (WHERE NOT w.is_mine),
                                array_agg(w.key) FILTER (WHERE w.running >= each)
                            INTO number, furthest, last_free, frees_seen, candidates, heads, refused, full_now
                            FROM (
                                SELECT w.*, CASE
                                    WHEN w.is_free IS NOT TRUE OR w.nth > room THEN NULL
                                    WHEN locks THEN {lock} ELSE true
                                END AS is_mine
                                FROM (
                                    SELECT w.*, count(*) FILTER (WHERE w.is_free) OVER (ROWS UNBOUNDED PRECEDING) AS nth
                                    FROM (
                                        SELECT w.*, w.running < coalesce(each, 1) AS is_free
                                        FROM (
                                            SELECT w.key, w.id, CASE
                                                WHEN w.key = ANY (closed)
                                                    OR (lap = 1 AND used_before > 0 AND w.key = from_key) THEN NULL
                                                WHEN each IS NULL THEN 0 ELSE {_executing(jobs)}
                                            END AS running
                                            FROM walk w OFFSET 0
                                        ) w
                                    ) w
                                ) w
                            ) w;
    """  # noqa: S608 - the name of the schema is quoted


RING: Final = Function("oban_sa_ring", _PARAMETERS, _RETURNING, _body)
