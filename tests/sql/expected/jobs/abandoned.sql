-- text, after, param_1
WITH lost AS
(SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'executing' AND jobs.oban_jobs.attempted_at < timezone('UTC', now()) - CAST($2::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND NOT coalesce(jobs.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', false) AND NOT (EXISTS (SELECT jobs.oban_producers.uuid
FROM jobs.oban_producers
WHERE CAST(jobs.oban_producers.uuid AS TEXT) = jobs.oban_jobs.attempted_by[2] AND jobs.oban_producers.updated_at >= timezone('UTC', now()) - CAST(greatest(CAST($2::FLOAT AS DOUBLE PRECISION), 60) AS DOUBLE PRECISION) * interval '1 second')) AND ((EXISTS (SELECT jobs.oban_producers.uuid
FROM jobs.oban_producers
WHERE CAST(jobs.oban_producers.uuid AS TEXT) = jobs.oban_jobs.attempted_by[2])) OR NOT (EXISTS (SELECT jobs.oban_peers.name
FROM jobs.oban_peers
WHERE jobs.oban_peers.expires_at > timezone('UTC', clock_timestamp()))))
 LIMIT $3::INTEGER FOR UPDATE SKIP LOCKED)
 UPDATE jobs.oban_jobs SET state=CAST(CASE WHEN coalesce((jobs.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(jobs.oban_jobs.attempted_at) #>> '{}'), false) THEN 'cancelled' WHEN (jobs.oban_jobs.attempt >= jobs.oban_jobs.max_attempts) THEN 'discarded' ELSE 'available' END AS jobs.oban_job_state), errors=(jobs.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', jobs.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=CASE WHEN (jobs.oban_jobs.attempt >= jobs.oban_jobs.max_attempts AND NOT coalesce((jobs.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(jobs.oban_jobs.attempted_at) #>> '{}'), false)) THEN timezone('UTC', clock_timestamp()) ELSE jobs.oban_jobs.discarded_at END, meta=(CASE WHEN (jsonb_typeof(coalesce(jobs.oban_jobs.meta, '{}'::jsonb)) = 'object') THEN coalesce(jobs.oban_jobs.meta, '{}'::jsonb) - 'began' ELSE coalesce(jobs.oban_jobs.meta, '{}'::jsonb) END || jsonb_build_object('rescued', coalesce(CASE WHEN ((jobs.oban_jobs.meta ->> 'rescued') ~ '^[0-9]{1,8}$') THEN CAST(jobs.oban_jobs.meta ->> 'rescued' AS INTEGER) END, 0) + 1)), cancelled_at=CASE WHEN coalesce((jobs.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(jobs.oban_jobs.attempted_at) #>> '{}'), false) THEN timezone('UTC', clock_timestamp()) ELSE jobs.oban_jobs.cancelled_at END FROM lost WHERE jobs.oban_jobs.id = lost.id RETURNING jobs.oban_jobs.id, jobs.oban_jobs.queue, jobs.oban_jobs.worker, jobs.oban_jobs.state, jobs.oban_jobs.attempt, jobs.oban_jobs.max_attempts
