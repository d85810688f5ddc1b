"""The function that walks the ring of a queue's keys and says of which of them a fetch may take jobs."""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.names import literal, quoted

_PARAMETERS: Final = (
    ("of_queue", "text"),
    ("demand", "integer"),
    ("each", "integer"),
    ("bursts", "boolean"),
    ("heavy", "text[]"),
    ("weights", "integer[]"),
    ("rate", "text"),
    ("moment", "timestamp without time zone"),
    ("cursor", "text"),
)
_RETURNING: Final = (
    "TABLE (place integer, priority smallint, key text, weight integer, used integer, free integer, rate_left integer, "
    "most integer, quota integer, stopped text, next_in float8)"
)

KEYS: Final = 200
"""Keys that one fetch locks at most: the server has room for 64 locks for each connection, as it is delivered."""

PASSED: Final = 400
"""Keys that one fetch looks at, whether it may take their jobs or not. The next one goes on from there."""


def _body(schema: str) -> str:
    """Return the code of the function.

    It is told how many jobs are wanted, how many of `each` key may execute at once (NULL sets no limit), the `weights`
    of some keys, which are named in `heavy` in the same order, the `rate` of each key as JSON (the parameters of
    `oban_sa_rate` by name, with `name` for the rate's, or NULL), the `moment` at which the jobs are begun, and the
    `cursor` that the last fetch returned.

    It returns a row for each key of which jobs may be taken, in the order of their turns: `place`, `priority` of the
    jobs, the `key`, its `weight`, how many jobs of its turn were taken by the last fetch (`used`), how many more may
    execute (`free`), how many starts its rate has left (`rate_left`), how many jobs may be taken (`most`, which is more
    than is free where keys may burst), and how many are to be read for its share (`quota`). The last row has NULL as
    its place: `free` has how many keys were passed since another fetch had them locked, `stopped` where a walk ended
    that was not finished, and `next_in` after how many seconds the rate lets a job start of a key that was passed.

    Each query in it has a snapshot of its own, since the function is volatile. So what executes is counted after the
    key was locked, and with the outcomes that the same statement has written. It never waits: a key that is locked is
    passed.
    """
    jobs = f"{quoted(schema)}.oban_jobs"
    # As the partial indexes have it.
    waiting = "j.state = 'available' AND j.meta ? 'partition' AND j.queue = of_queue"
    key = "(j.meta ->> 'partition')"
    executing = (  # the name of the schema is quoted
        f"(SELECT count(*)::integer FROM (SELECT FROM {jobs} j WHERE j.state = 'executing' AND j.meta ? 'partition'\n"  # noqa: S608
        f"                    AND j.queue = of_queue AND {key} = w.key LIMIT each) executing)"
    )
    lock = f"pg_try_advisory_xact_lock(hashtextextended({literal(jobs)} || E'\\n' || of_queue || E'\\n' || w.key, 0))"
    rate = (
        f"{quoted(schema)}.oban_sa_rate(rated ->> 'name', w.key, CAST(rated ->> 'n' AS integer),\n"
        "                    CAST(rated ->> 'per' AS float8), rated ->> 'algorithm',\n"
        "                    CAST(rated ->> 'burst' AS integer),"
    )
    return f"""
        #variable_conflict use_column
        DECLARE
            said json := cursor;
            rated json := rate;
            from_key text := coalesce(said ->> 'key', '');
            used_before integer := coalesce(CAST(said ->> 'used' AS integer), 0);
            resumed json := said -> 'stopped';
            following integer := coalesce(CAST(resumed ->> 0 AS integer), -32768);
            wanted integer := least(demand, {KEYS});
            level smallint;
            upmost text;
            position text;
            upto text;
            is_met boolean;
            step integer;
            asked integer;
            number integer;
            walked text[];
            candidates text[];
            counts integer[];
            lefts integer[];
            waits float8;
            soonest float8;
            refused text[];
            passed integer := 0;
            locked integer := 0;
            closed text[] := '{{}}';
            full_keys text[] := '{{}}';
            full_levels smallint[] := '{{}}';
            keys text[] := '{{}}';
            levels smallint[] := '{{}}';
            frees integer[] := '{{}}';
            rates integer[] := '{{}}';
            is_whole boolean := true;
            stopped json;
        BEGIN
            IF demand <= 0 THEN
                RETURN;
            END IF;
            IF (each IS NOT NULL OR rated IS NOT NULL)
                AND current_setting('transaction_isolation') <> 'read committed'
            THEN
                RAISE EXCEPTION 'limits of oban_sa hold in READ COMMITTED, and this transaction is %',
                    upper(current_setting('transaction_isolation')) USING ERRCODE = 'invalid_transaction_state';
            END IF;
            <<ring>>
            LOOP
                level := (
                    SELECT j.priority FROM {jobs} j WHERE {waiting} AND j.priority >= following
                    ORDER BY j.priority LIMIT 1
                );
                EXIT ring WHEN level IS NULL;
                following := level + 1;
                IF level <> CAST(resumed ->> 0 AS integer) THEN
                    resumed := NULL;
                END IF;
                upmost := (
                    SELECT {key} FROM {jobs} j WHERE {waiting} AND j.priority = level
                    ORDER BY {key} DESC LIMIT 1
                );
                CONTINUE ring WHEN upmost IS NULL;
                -- From the cursor to the last key, and from the first key to the cursor. Both bounds are conditions of
                -- the index: as a filter, the upper one would have the last step read the rest of the index.
                FOR lap IN coalesce(CAST(resumed ->> 1 AS integer), 0) .. 1 LOOP
                    position := CASE WHEN resumed IS NOT NULL THEN resumed ->> 2 WHEN lap = 0 THEN from_key ELSE '' END;
                    upto := CASE WHEN lap = 0 THEN upmost ELSE from_key END;
                    -- A key whose turn was used up comes last.
                    is_met := resumed IS NOT NULL OR (lap = 0 AND used_before = 0);
                    resumed := NULL;
                    step := wanted - cardinality(keys);
                    LOOP
                        asked := step + CAST(is_met AS integer);
                        walked := ARRAY(
                            WITH RECURSIVE walk (key, n) AS (
                                (
                                    SELECT {key}, 1 FROM {jobs} j
                                    WHERE {waiting} AND j.priority = level AND {key} >= position AND {key} <= upto
                                    ORDER BY {key} LIMIT 1
                                )
                                UNION ALL
                                SELECT after.key, walk.n + 1 FROM walk CROSS JOIN LATERAL (
                                    SELECT {key} AS key FROM {jobs} j
                                    WHERE {waiting} AND j.priority = level AND {key} > walk.key AND {key} <= upto
                                    ORDER BY {key} LIMIT 1
                                ) after
                                WHERE walk.n < asked
                            )
                            SELECT walk.key FROM walk
                        );
                        number := cardinality(walked);
                        EXIT WHEN number = 0;
                        passed := passed + number;
                        IF is_met AND walked[1] = position THEN
                            walked := walked[2:];
                        END IF;
                        IF lap = 1 AND used_before > 0 AND walked[cardinality(walked)] = from_key THEN
                            walked := walked[:cardinality(walked) - 1];
                        END IF;
                        EXIT WHEN cardinality(walked) = 0;
                        position := walked[cardinality(walked)];
                        is_met := true;
                        candidates := ARRAY(
                            SELECT w.key FROM unnest(walked) WITH ORDINALITY w (key, n)
                            WHERE w.key <> ALL (closed) ORDER BY w.n
                        );
                        IF each IS NOT NULL THEN
                            -- Without locks first: keys that are full stay free for the fetch that finds them freed.
                            SELECT coalesce(array_agg(w.key ORDER BY w.n) FILTER (WHERE w.running < each), '{{}}'),
                                coalesce(array_agg(w.key ORDER BY w.n) FILTER (WHERE w.running >= each), '{{}}')
                            INTO candidates, refused
                            FROM (
                                SELECT w.key, w.n, {executing} AS running
                                FROM unnest(candidates) WITH ORDINALITY w (key, n)
                            ) w;
                            closed := closed || refused;
                            IF bursts THEN
                                full_keys := full_keys || refused;
                                full_levels := full_levels || array_fill(level, ARRAY[cardinality(refused)]);
                            END IF;
                        END IF;
                        IF cardinality(candidates) > wanted - cardinality(keys) THEN
                            candidates := candidates[:wanted - cardinality(keys)];
                            position := candidates[cardinality(candidates)];
                            number := asked;
                        END IF;
                        counts := array_fill(demand, ARRAY[cardinality(candidates)]);
                        lefts := counts;
                        IF each IS NOT NULL OR rated IS NOT NULL THEN
                            SELECT coalesce(array_agg(w.key ORDER BY w.n) FILTER (WHERE w.is_mine), '{{}}'),
                                coalesce(array_agg(w.key) FILTER (WHERE NOT w.is_mine), '{{}}')
                            INTO candidates, refused
                            FROM (
                                SELECT w.key, w.n, {lock} AS is_mine
                                FROM unnest(candidates) WITH ORDINALITY w (key, n)
                            ) w;
                            closed := closed || refused;
                            locked := locked + cardinality(refused);
                            counts := array_fill(demand, ARRAY[cardinality(candidates)]);
                            lefts := counts;
                            IF each IS NOT NULL THEN
                                -- Again, now that no other fetch takes jobs of these keys.
                                counts := ARRAY(
                                    SELECT each - {executing}
                                    FROM unnest(candidates) WITH ORDINALITY w (key, n) ORDER BY w.n
                                );
                            END IF;
                            IF rated IS NOT NULL THEN
                                lefts := ARRAY(
                                    SELECT {rate} NULL, NULL, moment)::integer
                                    FROM unnest(candidates) WITH ORDINALITY w (key, n) ORDER BY w.n
                                );
                                SELECT min({rate} 0, 1, moment)) INTO waits
                                FROM unnest(candidates, lefts) w (key, rate_left) WHERE w.rate_left <= 0;
                                soonest := least(soonest, waits);
                            END IF;
                            closed := closed || ARRAY(
                                SELECT w.key FROM unnest(candidates, counts, lefts) w (key, free, rate_left)
                                WHERE w.free <= 0 OR w.rate_left <= 0
                            );
                            SELECT coalesce(array_agg(w.key ORDER BY w.n), '{{}}'),
                                coalesce(array_agg(w.free ORDER BY w.n), '{{}}'),
                                coalesce(array_agg(w.rate_left ORDER BY w.n), '{{}}')
                            INTO candidates, counts, lefts
                            FROM unnest(candidates, counts, lefts) WITH ORDINALITY w (key, free, rate_left, n)
                            WHERE w.free > 0 AND w.rate_left > 0;
                        END IF;
                        keys := keys || candidates;
                        levels := levels || array_fill(level, ARRAY[cardinality(candidates)]);
                        frees := frees || counts;
                        rates := rates || lefts;
                        IF cardinality(keys) >= wanted OR passed >= {PASSED} THEN
                            is_whole := false;
                            stopped := json_build_array(level, lap, position);
                            EXIT ring;
                        END IF;
                        EXIT WHEN number < asked;
                        -- More at once only as far as keys were in vain: one that is full costs one more probe.
                        step := least(greatest(
                            wanted - cardinality(keys), 2 * (cardinality(walked) - cardinality(candidates))
                        ), 100);
                    END LOOP;
                END LOOP;
            END LOOP;
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
            RETURN QUERY
            SELECT CAST(w.n AS integer), w.priority, w.key, w.weight, w.used, w.free, w.rate_left, w.most,
                CASE WHEN bursts THEN w.most
                ELSE least(w.most, w.used + w.weight * CAST(ceil(
                    (demand + w.used)::numeric / sum(w.weight) OVER (PARTITION BY w.priority)) AS integer)) END,
                NULL::text, NULL::float8
            FROM (
                SELECT w.*, CASE WHEN w.key = from_key THEN least(used_before, w.weight - 1) ELSE 0 END AS used,
                    least(demand, w.rate_left, CASE WHEN NOT bursts THEN w.free END) AS most
                FROM (
                    SELECT w.*, coalesce(weights[array_position(heavy, w.key)], 1) AS weight
                    FROM unnest(levels, keys, frees, rates) WITH ORDINALITY w (priority, key, free, rate_left, n)
                ) w
            ) w
            UNION ALL
            SELECT NULL, level, NULL, 0, 0, locked, 0, 0, 0, stopped::text, soonest;
        END
    """  # noqa: S608 - the name of the schema is quoted


RING: Final = Function("oban_sa_ring", _PARAMETERS, _RETURNING, _body)
