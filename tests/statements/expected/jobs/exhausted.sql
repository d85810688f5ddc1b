-- text, param_1
WITH spent AS
(SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.attempt >= jobs.oban_jobs.max_attempts
 LIMIT $2::INTEGER FOR UPDATE SKIP LOCKED)
 UPDATE jobs.oban_jobs SET state='discarded', errors=(jobs.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', jobs.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=timezone('UTC', clock_timestamp()) FROM spent WHERE jobs.oban_jobs.id = spent.id RETURNING jobs.oban_jobs.id, jobs.oban_jobs.queue, jobs.oban_jobs.worker, jobs.oban_jobs.state, jobs.oban_jobs.attempt, jobs.oban_jobs.max_attempts
