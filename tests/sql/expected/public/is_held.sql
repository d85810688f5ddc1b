-- job_id, attempt, attempted_at, holder
SELECT EXISTS (SELECT *
FROM public.oban_jobs
WHERE public.oban_jobs.id = $1::BIGINT AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempt = $2::INTEGER AND public.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', $3::TIMESTAMP WITH TIME ZONE) AND public.oban_jobs.attempted_by = CAST($4::TEXT[] AS TEXT[])) AS anon_1
