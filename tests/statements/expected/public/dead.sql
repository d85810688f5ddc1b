--
SELECT public.oban_producers.uuid, public.oban_producers.node, public.oban_producers.queue, CAST(EXTRACT(epoch FROM timezone('UTC', now()) - public.oban_producers.updated_at) AS DOUBLE PRECISION) AS silent_for
FROM public.oban_producers
WHERE CAST(EXTRACT(epoch FROM timezone('UTC', now()) - public.oban_producers.updated_at) AS DOUBLE PRECISION) > CASE WHEN ((public.oban_producers.meta ->> 'dead_after') ~ '^[0-9]{1,8}([.][0-9]+)?$') THEN CAST(public.oban_producers.meta ->> 'dead_after' AS DOUBLE PRECISION) END FOR UPDATE SKIP LOCKED
