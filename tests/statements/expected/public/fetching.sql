-- holder, queue, producer, from_priority, from_scheduled_at, from_id, demand
WITH picked AS MATERIALIZED
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = $2::VARCHAR AND public.oban_jobs.attempt < public.oban_jobs.max_attempts AND (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE public.oban_producers.uuid = $3::UUID)) AND (public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id) >= ($4::SMALLINT, $5::TIMESTAMP WITHOUT TIME ZONE, $6::BIGINT) ORDER BY public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id
 LIMIT $7::INTEGER FOR UPDATE SKIP LOCKED),
taken AS
(UPDATE public.oban_jobs SET state='executing', attempt=(public.oban_jobs.attempt + 1), attempted_at=timezone('UTC', now()), attempted_by=CAST($1::TEXT[] AS TEXT[]) WHERE public.oban_jobs.id = any(array((SELECT picked.id
FROM picked))) RETURNING public.oban_jobs.id, public.oban_jobs.worker, public.oban_jobs.attempt, public.oban_jobs.max_attempts, public.oban_jobs.priority, CAST(public.oban_jobs.args AS TEXT) AS args, CAST(public.oban_jobs.meta AS TEXT) AS meta, public.oban_jobs.tags, CAST(to_jsonb(public.oban_jobs.errors) AS TEXT) AS errors, timezone('UTC', public.oban_jobs.inserted_at) AS inserted_at, timezone('UTC', public.oban_jobs.scheduled_at) AS scheduled_at, timezone('UTC', public.oban_jobs.attempted_at) AS attempted_at, timezone('UTC', public.oban_jobs.cancelled_at) AS cancelled_at, timezone('UTC', public.oban_jobs.completed_at) AS completed_at, timezone('UTC', public.oban_jobs.discarded_at) AS discarded_at)
 SELECT taken.id, taken.worker, taken.attempt, taken.max_attempts, taken.priority, taken.args, taken.meta, taken.tags, taken.errors, taken.inserted_at, taken.scheduled_at, taken.attempted_at, taken.cancelled_at, taken.completed_at, taken.discarded_at
FROM taken
