-- xid, job_id, attempt, attempted_at, holder
SELECT txid_status($1::BIGINT) AS status, EXISTS (SELECT *
FROM public.oban_jobs
WHERE public.oban_jobs.id = $2::BIGINT AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempt = $3::INTEGER AND public.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', $4::TIMESTAMP WITH TIME ZONE) AND public.oban_jobs.attempted_by = CAST($5::TEXT[] AS TEXT[])) AS held
