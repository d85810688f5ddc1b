-- job_id, attempt, attempted_at, holder
SELECT EXISTS (SELECT *
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.id = $1::BIGINT AND CAST(jobs.oban_jobs.state AS TEXT) = 'executing' AND jobs.oban_jobs.attempt = $2::INTEGER AND jobs.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', $3::TIMESTAMP WITH TIME ZONE) AND jobs.oban_jobs.attempted_by = CAST($4::TEXT[] AS TEXT[])) AS anon_1
