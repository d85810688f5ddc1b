-- nodes
SELECT DISTINCT public.oban_producers.node
FROM public.oban_producers
WHERE public.oban_producers.node = any(CAST($1::TEXT[] AS TEXT[])) AND (CAST(public.oban_producers.uuid AS TEXT) ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$')
