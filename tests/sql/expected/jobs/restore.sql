-- name, dead_after
WITH holders AS MATERIALIZED
(SELECT CASE WHEN (jobs.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(jobs.oban_jobs.attempted_by[2] AS UUID) END AS uuid, coalesce(jobs.oban_jobs.attempted_by[1], 'unknown') AS node, jobs.oban_jobs.queue AS queue, jsonb_agg(jobs.oban_jobs.id) AS running
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'executing' AND CASE WHEN (jobs.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(jobs.oban_jobs.attempted_by[2] AS UUID) END IS NOT NULL GROUP BY CASE WHEN (jobs.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(jobs.oban_jobs.attempted_by[2] AS UUID) END, coalesce(jobs.oban_jobs.attempted_by[1], 'unknown'), jobs.oban_jobs.queue)
 INSERT INTO jobs.oban_producers (uuid, name, node, queue, meta, started_at, updated_at) SELECT holders.uuid, CAST($1::VARCHAR AS TEXT) AS anon_1, holders.node, holders.queue, jsonb_build_object('limit', jsonb_array_length(holders.running), 'local_limit', jsonb_array_length(holders.running), 'paused', false, 'running', holders.running, 'dead_after', CAST($2::FLOAT AS DOUBLE PRECISION)) AS jsonb_build_object_1, timezone('UTC', now()) AS timezone_1, timezone('UTC', now()) AS timezone_2
FROM holders
WHERE NOT (EXISTS (SELECT jobs.oban_producers.uuid
FROM jobs.oban_producers
WHERE jobs.oban_producers.uuid = holders.uuid)) ON CONFLICT (uuid) DO NOTHING RETURNING jobs.oban_producers.uuid, jobs.oban_producers.node, jobs.oban_producers.updated_at AS updated_at
