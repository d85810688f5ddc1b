-- queues
SELECT EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[])) AND jobs.oban_jobs.attempt < jobs.oban_jobs.max_attempts) AS available, EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'executing' AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS executing, EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state IN ('scheduled', 'retryable') AND jobs.oban_jobs.scheduled_at <= timezone('UTC', now()) AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS due
