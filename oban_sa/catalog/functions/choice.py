"""Which jobs a fetch takes of the keys that its walk has found: the last part of `oban_sa_ring`."""

from __future__ import annotations


def choice(jobs: str, *, waiting: str, key: str, eligible: str) -> str:
    """Return the statements that read the first jobs of the keys that were found, and choose as many as are wanted.

    Of each key they read its share, `quota`, or as many as it may have, `most`, where keys do not take turns. Chosen
    are those within what the key has `free` and what its rate has left, in the order in which they are taken: by
    priority, and within one in rounds, each of which has `weight` jobs of each key; or the oldest first. A key may have
    jobs of several priorities; what it may have executing is for all of them.

    `ids` are the chosen jobs, `moved` is where the next fetch begins, and `upmost` the first priority of which there
    may be more jobs, since a key had all of its share there; those go before all jobs of later ones. `held_keys` and
    `held_weights` are the first job of each key that is too heavy.
    """
    return f"""
            IF cardinality(keys) > 0 THEN
                WITH ring AS (
                    SELECT CAST(w.n AS integer) AS place, w.priority, w.key, w.weight, w.used, w.free, w.rate_left,
                        w.most, CASE WHEN bursts OR NOT in_turn THEN w.most
                        ELSE least(w.most, w.used + w.weight * CAST(ceil(
                            (demand + w.used)::numeric / sum(w.weight) OVER (PARTITION BY w.priority)) AS integer)) END
                        AS quota
                    FROM (
                        SELECT w.*, CASE WHEN w.key = from_key THEN least(used_before, w.weight - 1) ELSE 0 END AS used,
                            least(demand, w.rate_left, CASE WHEN NOT bursts THEN w.free END) AS most
                        FROM (
                            SELECT w.*, coalesce(weights[array_position(heavy, w.key)], 1) AS weight
                            FROM unnest(levels, keys, frees, rates)
                                WITH ORDINALITY w (priority, key, free, rate_left, n)
                        ) w
                    ) w
                ), found AS MATERIALIZED (
                    SELECT r.*, job.id, job.scheduled_at, CAST(job.n AS integer) AS n, job.cost,
                        row_number() OVER in_key AS of_all, sum(job.cost) OVER in_key AS total,
                        coalesce(
                            min(CASE WHEN job.n >= r.quota AND r.quota < r.most THEN r.priority END) OVER (), 32767
                        ) AS last
                    FROM ring r CROSS JOIN LATERAL (
                        SELECT j.id, j.scheduled_at, j.cost, row_number() OVER (ORDER BY j.scheduled_at, j.id) AS n
                        FROM (
                            SELECT j.id, j.scheduled_at, CASE WHEN weighing IS NULL THEN 0 ELSE {_COST} END AS cost
                            FROM {jobs} j
                            WHERE {waiting} AND j.priority = r.priority AND {key} = r.key AND {eligible}
                            ORDER BY j.scheduled_at, j.id LIMIT r.quota
                        ) j
                    ) job
                    WINDOW in_key AS (PARTITION BY r.key ORDER BY r.priority, job.n)
                ), chosen AS MATERIALIZED (
                    SELECT f.*, row_number() OVER turns AS number
                    FROM found f
                    WHERE f.of_all <= f.most AND f.total <= f.rate_left AND (f.priority <= f.last OR NOT in_turn)
                    WINDOW turns AS (
                        ORDER BY f.of_all > f.free, f.priority,
                            CASE WHEN in_turn THEN (f.n - 1 + f.used) / f.weight END,
                            CASE WHEN in_turn THEN f.place END, CASE WHEN in_turn THEN f.n END, f.scheduled_at, f.id
                    )
                    ORDER BY number LIMIT demand
                )
                SELECT c.ids, c.upmost, (
                    SELECT jsonb_build_object('key', c.key, 'used', (c.n + c.used) % c.weight)
                    FROM chosen c ORDER BY c.number DESC LIMIT 1
                ), h.keys, h.weights
                INTO ids, upmost, moved, held_keys, held_weights
                FROM (
                    SELECT array_agg(c.id ORDER BY c.number) AS ids,
                        CASE WHEN in_turn THEN coalesce(min(c.last), 32767) ELSE 32767 END AS upmost
                    FROM chosen c
                ) c CROSS JOIN (
                    SELECT array_agg(f.key) AS keys, array_agg(f.cost) AS weights FROM found f
                    -- The first one: each job counts 1 at least.
                    WHERE f.of_all <= f.most AND f.rate_left < f.total AND f.rate_left >= f.total - f.cost
                ) h;
            END IF;
    """  # noqa: S608 - the name of the schema is quoted


_COST = """(
                                SELECT CAST(least(greatest(
                                    CASE WHEN w.number = floor(w.number) THEN w.number ELSE 1 END, 1
                                ), CAST(coalesce(rated ->> 'burst', rated ->> 'n') AS integer)) AS integer)
                                FROM (
                                    SELECT CASE WHEN jsonb_typeof(w.said) = 'number' THEN CAST(w.said AS numeric) ELSE 1
                                        END AS number
                                    FROM (
                                        SELECT jsonb_build_object('args', j.args, 'meta', j.meta) #> weighing AS said
                                    ) w
                                ) w
                            )"""
"""What a job counts, as `weight_of` of `oban_sa.sql.rates`."""
