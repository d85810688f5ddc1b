-- job_id, attempted_at, holder
SELECT EXISTS (SELECT *
FROM public.oban_jobs
WHERE public.oban_jobs.id = $1::BIGINT AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', $2::TIMESTAMP WITH TIME ZONE) AND public.oban_jobs.attempted_by = CAST($3::TEXT[] AS TEXT[])) AS anon_1
