-- queues, table
SELECT array((SELECT asked
FROM unnest(CAST($1::TEXT[] AS TEXT[])) AS asked
WHERE EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = asked AND public.oban_jobs.attempt < public.oban_jobs.max_attempts))) AS waiting, (SELECT CASE WHEN (pg_relation_size(pg_catalog.pg_class.oid) >= 16384 AND (pg_catalog.pg_class.reltuples != 0 OR pg_catalog.pg_class.relpages = 0)) THEN CAST(floor(log(2, CAST(pg_relation_size(pg_catalog.pg_class.oid) AS NUMERIC))) AS INTEGER) ELSE 0 END AS anon_1
FROM pg_catalog.pg_class
WHERE pg_catalog.pg_class.oid = to_regclass(CAST($2::VARCHAR AS TEXT))) AS size
