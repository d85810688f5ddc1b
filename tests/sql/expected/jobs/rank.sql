-- queues, lately, uuids
SELECT ranked.uuid, ranked.number, ranked.nodes
FROM (SELECT jobs.oban_producers.uuid AS uuid, row_number() OVER (PARTITION BY jobs.oban_producers.queue ORDER BY jobs.oban_producers.uuid) - 1 AS number, count(*) OVER (PARTITION BY jobs.oban_producers.queue) AS nodes
FROM jobs.oban_producers
WHERE jobs.oban_producers.queue = any(CAST($1::TEXT[] AS TEXT[])) AND jobs.oban_producers.updated_at > timezone('UTC', clock_timestamp()) - CAST($2::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND (jobs.oban_producers.meta -> 'dead_after') IS NOT NULL AND (jobs.oban_producers.meta -> 'unknown') IS NULL AND (jobs.oban_producers.meta ->> 'paused') IS DISTINCT FROM 'true') AS ranked
WHERE ranked.uuid = any(CAST($3::UUID[] AS UUID[]))
