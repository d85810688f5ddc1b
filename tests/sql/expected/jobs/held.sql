-- ids, holder
SELECT jobs.oban_jobs.id, timezone('UTC', jobs.oban_jobs.attempted_at) AS attempted_at
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.id = any(CAST($1::BIGINT[] AS BIGINT[])) AND CAST(jobs.oban_jobs.state AS TEXT) = 'executing' AND jobs.oban_jobs.attempted_by = CAST($2::TEXT[] AS TEXT[])
