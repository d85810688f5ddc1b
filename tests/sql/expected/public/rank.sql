-- queues, lately, uuids
SELECT ranked.uuid, ranked.number, ranked.nodes
FROM (SELECT public.oban_producers.uuid AS uuid, row_number() OVER (PARTITION BY public.oban_producers.queue ORDER BY public.oban_producers.uuid) - 1 AS number, count(*) OVER (PARTITION BY public.oban_producers.queue) AS nodes
FROM public.oban_producers
WHERE public.oban_producers.queue = any(CAST($1::TEXT[] AS TEXT[])) AND public.oban_producers.updated_at > timezone('UTC', clock_timestamp()) - CAST($2::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND (public.oban_producers.meta -> 'dead_after') IS NOT NULL AND (public.oban_producers.meta -> 'unknown') IS NULL AND (public.oban_producers.meta ->> 'paused') IS DISTINCT FROM 'true') AS ranked
WHERE ranked.uuid = any(CAST($3::UUID[] AS UUID[]))
