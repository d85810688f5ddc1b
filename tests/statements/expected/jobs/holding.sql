-- ids, param_1, holder
SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.id = any(CAST($1::BIGINT[] AS BIGINT[])) AND CAST(jobs.oban_jobs.state AS TEXT) = $2::VARCHAR AND jobs.oban_jobs.attempted_by = CAST($3::TEXT[] AS TEXT[])
