-- queue, producer
SELECT timezone('UTC', timezone('UTC', clock_timestamp())) AS now, (SELECT CAST(jsonb_agg(coalesce(public.oban_producers.meta -> 'unknown', '[]'::jsonb)) AS TEXT) AS jsonb_agg_1
FROM public.oban_producers
WHERE public.oban_producers.queue = $1::VARCHAR AND public.oban_producers.uuid != $2::UUID) AS others
