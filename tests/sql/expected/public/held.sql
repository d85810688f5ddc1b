-- ids, holder
SELECT public.oban_jobs.id, timezone('UTC', public.oban_jobs.attempted_at) AS attempted_at
FROM public.oban_jobs
WHERE public.oban_jobs.id = any(CAST($1::BIGINT[] AS BIGINT[])) AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempted_by = CAST($2::TEXT[] AS TEXT[])
