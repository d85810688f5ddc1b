-- name_1, peers
SELECT clock_timestamp() AS now, (EXISTS (SELECT public.oban_leaders.name
FROM public.oban_leaders
WHERE (public.oban_leaders.name NOT LIKE $1::VARCHAR || '%' ESCAPE '/'))) OR (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE CAST(public.oban_producers.uuid AS TEXT) !~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$')) AS others, to_regclass($2::VARCHAR) IS NOT NULL AS peers
