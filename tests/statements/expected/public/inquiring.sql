-- xid, job_id, attempted_at, holder
SELECT txid_status($1::BIGINT) AS status, EXISTS (SELECT *
FROM public.oban_jobs
WHERE public.oban_jobs.id = $2::BIGINT AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', $3::TIMESTAMP WITH TIME ZONE) AND public.oban_jobs.attempted_by = CAST($4::TEXT[] AS TEXT[])) AS held
