-- text, param_1, param_2
WITH RECURSIVE queues(queue) AS
(SELECT min(jobs.oban_jobs.queue) AS queue
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' UNION ALL SELECT (SELECT min(jobs.oban_jobs.queue) AS min_1
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.queue > queues.queue) AS anon_1
FROM queues
WHERE queues.queue IS NOT NULL),
heads AS
(SELECT head.id AS id
FROM queues JOIN LATERAL (SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.queue = queues.queue ORDER BY jobs.oban_jobs.priority, jobs.oban_jobs.scheduled_at, jobs.oban_jobs.id
 LIMIT $2::INTEGER) AS head ON true),
spent AS
(SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs, heads
WHERE jobs.oban_jobs.id = heads.id AND CAST(jobs.oban_jobs.state AS TEXT) = 'available' AND jobs.oban_jobs.attempt >= jobs.oban_jobs.max_attempts
 LIMIT $3::INTEGER FOR UPDATE OF oban_jobs SKIP LOCKED)
 UPDATE jobs.oban_jobs SET state='discarded', errors=(jobs.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', jobs.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=timezone('UTC', clock_timestamp()) FROM spent WHERE jobs.oban_jobs.id = spent.id RETURNING jobs.oban_jobs.id, jobs.oban_jobs.queue, jobs.oban_jobs.worker, jobs.oban_jobs.state, jobs.oban_jobs.attempt, jobs.oban_jobs.max_attempts
