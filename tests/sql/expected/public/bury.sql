-- uuids
DELETE FROM public.oban_producers WHERE CAST(public.oban_producers.uuid AS TEXT) = any(CAST($1::TEXT[] AS TEXT[])) AND NOT (EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'executing' AND CAST(public.oban_producers.uuid AS TEXT) = public.oban_jobs.attempted_by[2]))
