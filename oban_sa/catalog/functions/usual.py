"""The usual case of a fetch by partition: after the cursor there are as many keys with room as jobs are wanted."""

from __future__ import annotations


def usual(jobs: str, *, lock: str, executing: str, waiting: str, key: str, most: int) -> str:
    """Return the statements that take the first job of each of the next keys, or do nothing where that is not enough.

    They take what the walk would: one job of each key, of one priority, of keys that have room and could be locked. The
    walk asks for much else besides, which is most of its time. Locks that were taken in vain it takes next.

    Keys that are full, or that another fetch has locked, are passed, up to as many as are wanted and ten more. The
    recursion goes no further than it is read, so it costs nothing that it may.
    """
    entry = f"{key} AS key, CASE WHEN j.attempt < j.max_attempts THEN j.id END AS id"
    order = f"ORDER BY {key}, j.scheduled_at, j.id LIMIT 1"
    of_level = f"{waiting} AND j.priority = walk.priority"
    return f"""
            IF in_turn AND rate IS NULL AND unknown IS NULL AND heavy = '{{}}' AND demand <= {most} THEN
                WITH RECURSIVE walk (priority, key, id, n, lap) AS (
                    (
                        SELECT j.priority, from_key, CAST(NULL AS bigint), 0, 0 FROM {jobs} j
                        WHERE {waiting} ORDER BY j.priority LIMIT 1
                    )
                    UNION ALL
                    SELECT walk.priority, after.key, after.id, walk.n + 1, after.lap
                    FROM walk CROSS JOIN LATERAL (
                        SELECT following.* FROM (
                            (SELECT {entry}, walk.lap FROM {jobs} j WHERE {of_level} AND {key} > walk.key {order})
                            UNION ALL
                            -- After the last key from the first one, up to the cursor.
                            (SELECT {entry}, 1 FROM {jobs} j WHERE {of_level} AND walk.lap = 0 {order})
                        ) following LIMIT 1
                    ) after
                    WHERE walk.n < 2 * demand + 10 AND (after.lap = 0 OR after.key <= from_key)
                )
                SELECT array_agg(w.key), array_agg(w.id), count(w.id), CAST(pg_catalog.pg_current_snapshot() AS text)
                INTO usual_keys, ids, usual_count, usual_snapshot
                FROM (
                    SELECT w.key, w.id FROM walk w
                    -- What is full is found without a lock: it stays free for the fetch that finds a slot of it.
                    WHERE w.n > 0
                        AND CASE WHEN each IS NULL THEN true WHEN {executing} < each THEN {lock} ELSE false END
                    LIMIT demand
                ) w;
                IF usual_count = demand AND each IS NOT NULL
                    AND usual_snapshot <> CAST(pg_catalog.pg_current_snapshot() AS text)
                THEN
                    -- Again, now that no other fetch takes jobs of these keys, and others have committed meanwhile.
                    usual_count := (SELECT count(*) FROM unnest(usual_keys) w (key) WHERE {executing} < each);
                END IF;
                IF usual_count = demand THEN
                    skipped := 0;
                    last_key := jsonb_build_object('key', usual_keys[demand], 'used', 0);
                    RETURN NEXT;
                    RETURN;
                END IF;
                ids := NULL;
            END IF;
    """  # noqa: S608 - the name of the schema is quoted
