"""The usual case of a fetch by partition: after the cursor there are as many keys with room as jobs are wanted."""

from __future__ import annotations


def usual(jobs: str, *, lock: str, executing: str, waiting: str, key: str, most: int) -> str:
    """Return the statements that take the first job of each of the next keys, or do nothing where that is not enough.

    They take what the walk would: one job of each key, of one priority, of keys that have room and could be locked. The
    walk asks for much else besides, which is most of its time. Locks that were taken in vain it takes next.
    """
    entry = f"{key} AS key, CASE WHEN j.attempt < j.max_attempts THEN j.id END AS id"
    order = f"ORDER BY {key}, j.scheduled_at, j.id LIMIT 1"
    return f"""
            IF in_turn AND rate IS NULL AND unknown IS NULL AND heavy = '{{}}' AND demand <= {most} THEN
                WITH RECURSIVE upmost AS MATERIALIZED (
                    SELECT j.priority FROM {jobs} j WHERE {waiting} ORDER BY j.priority LIMIT 1
                ), walk (priority, key, id, n) AS (
                    SELECT upmost.priority, first.key, first.id, 1 FROM upmost CROSS JOIN LATERAL (
                        SELECT {entry} FROM {jobs} j
                        WHERE {waiting} AND j.priority = upmost.priority AND {key} > from_key {order}
                    ) first
                    UNION ALL
                    SELECT walk.priority, after.key, after.id, walk.n + 1 FROM walk CROSS JOIN LATERAL (
                        SELECT {entry} FROM {jobs} j
                        WHERE {waiting} AND j.priority = walk.priority AND {key} > walk.key {order}
                    ) after
                    WHERE walk.n < demand
                )
                SELECT array_agg(w.key), array_agg(w.id), count(w.id) INTO usual_keys, ids, usual_count
                FROM walk w
                -- What is full is found without a lock: it stays free for the fetch that finds a slot of it.
                WHERE CASE WHEN each IS NULL THEN true WHEN {executing} < each THEN {lock} ELSE false END;
                IF usual_count = demand AND each IS NOT NULL THEN
                    -- Again, now that no other fetch takes jobs of these keys.
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
