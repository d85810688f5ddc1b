-- ids, param_1, holder
SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.id = any(CAST($1::BIGINT[] AS BIGINT[])) AND CAST(public.oban_jobs.state AS TEXT) = $2::VARCHAR AND public.oban_jobs.attempted_by = CAST($3::TEXT[] AS TEXT[])
