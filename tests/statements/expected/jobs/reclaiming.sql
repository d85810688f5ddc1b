-- queue, holder, known
UPDATE jobs.oban_jobs SET state='available', attempt=(jobs.oban_jobs.attempt - 1) WHERE jobs.oban_jobs.state = 'executing' AND jobs.oban_jobs.queue = $1::VARCHAR AND jobs.oban_jobs.attempted_by = CAST($2::TEXT[] AS TEXT[]) AND jobs.oban_jobs.id != all(CAST($3::BIGINT[] AS BIGINT[])) RETURNING jobs.oban_jobs.id
