-- name, dead_after
WITH holders AS MATERIALIZED
(SELECT CASE WHEN (public.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(public.oban_jobs.attempted_by[2] AS UUID) END AS uuid, coalesce(public.oban_jobs.attempted_by[1], 'unknown') AS node, public.oban_jobs.queue AS queue, jsonb_agg(public.oban_jobs.id) AS running
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'executing' AND CASE WHEN (public.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(public.oban_jobs.attempted_by[2] AS UUID) END IS NOT NULL GROUP BY CASE WHEN (public.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') THEN CAST(public.oban_jobs.attempted_by[2] AS UUID) END, coalesce(public.oban_jobs.attempted_by[1], 'unknown'), public.oban_jobs.queue)
 INSERT INTO public.oban_producers (uuid, name, node, queue, meta, started_at, updated_at) SELECT holders.uuid, CAST($1::VARCHAR AS TEXT) AS anon_1, holders.node, holders.queue, jsonb_build_object('limit', jsonb_array_length(holders.running), 'local_limit', jsonb_array_length(holders.running), 'paused', false, 'running', holders.running, 'dead_after', CAST($2::FLOAT AS DOUBLE PRECISION)) AS jsonb_build_object_1, timezone('UTC', now()) AS timezone_1, timezone('UTC', now()) AS timezone_2
FROM holders
WHERE NOT (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE public.oban_producers.uuid = holders.uuid)) ON CONFLICT (uuid) DO NOTHING RETURNING public.oban_producers.uuid, public.oban_producers.node, public.oban_producers.updated_at AS updated_at
