-- holder, queue, producer, from_priority, from_scheduled_at, from_id, demand
WITH picked AS MATERIALIZED
(SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.queue = $2::VARCHAR AND jobs.oban_jobs.attempt < jobs.oban_jobs.max_attempts AND (EXISTS (SELECT jobs.oban_producers.uuid
FROM jobs.oban_producers
WHERE jobs.oban_producers.uuid = $3::UUID)) AND (jobs.oban_jobs.priority, jobs.oban_jobs.scheduled_at, jobs.oban_jobs.id) >= ($4::SMALLINT, $5::TIMESTAMP WITHOUT TIME ZONE, $6::BIGINT) ORDER BY jobs.oban_jobs.priority, jobs.oban_jobs.scheduled_at, jobs.oban_jobs.id
 LIMIT $7::INTEGER FOR UPDATE SKIP LOCKED),
taken AS
(UPDATE jobs.oban_jobs SET state='executing', attempt=(jobs.oban_jobs.attempt + 1), attempted_at=timezone('UTC', now()), attempted_by=CAST($1::TEXT[] AS TEXT[]) WHERE jobs.oban_jobs.id = any(array((SELECT picked.id
FROM picked))) RETURNING jobs.oban_jobs.id, jobs.oban_jobs.worker, jobs.oban_jobs.attempt, jobs.oban_jobs.max_attempts, jobs.oban_jobs.priority, CAST(jobs.oban_jobs.args AS TEXT) AS args, CAST(jobs.oban_jobs.meta AS TEXT) AS meta, jobs.oban_jobs.tags, CAST(to_jsonb(jobs.oban_jobs.errors) AS TEXT) AS errors, timezone('UTC', jobs.oban_jobs.inserted_at) AS inserted_at, timezone('UTC', jobs.oban_jobs.scheduled_at) AS scheduled_at, timezone('UTC', jobs.oban_jobs.attempted_at) AS attempted_at, timezone('UTC', jobs.oban_jobs.cancelled_at) AS cancelled_at, timezone('UTC', jobs.oban_jobs.completed_at) AS completed_at, timezone('UTC', jobs.oban_jobs.discarded_at) AS discarded_at)
 SELECT taken.id, taken.worker, taken.attempt, taken.max_attempts, taken.priority, taken.args, taken.meta, taken.tags, taken.errors, taken.inserted_at, taken.scheduled_at, taken.attempted_at, taken.cancelled_at, taken.completed_at, taken.discarded_at
FROM taken
