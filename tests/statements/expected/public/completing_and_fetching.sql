-- holder, queue, producer, from_priority, from_scheduled_at, from_id, demand, ids, attempted_ats
WITH picked AS MATERIALIZED
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = $2::VARCHAR AND public.oban_jobs.attempt < public.oban_jobs.max_attempts AND (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE public.oban_producers.uuid = $3::UUID)) AND (public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id) >= ($4::SMALLINT, $5::TIMESTAMP WITHOUT TIME ZONE, $6::BIGINT) ORDER BY public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id
 LIMIT $7::INTEGER FOR UPDATE SKIP LOCKED),
taken AS
(UPDATE public.oban_jobs SET state='executing', attempt=(public.oban_jobs.attempt + 1), attempted_at=timezone('UTC', now()), attempted_by=CAST($1::TEXT[] AS TEXT[]) WHERE public.oban_jobs.id = any(array((SELECT picked.id
FROM picked))) RETURNING public.oban_jobs.id, public.oban_jobs.worker, public.oban_jobs.attempt, public.oban_jobs.max_attempts, public.oban_jobs.priority, CAST(public.oban_jobs.args AS TEXT) AS args, CAST(public.oban_jobs.meta AS TEXT) AS meta, public.oban_jobs.tags, CAST(to_jsonb(public.oban_jobs.errors) AS TEXT) AS errors, timezone('UTC', public.oban_jobs.inserted_at) AS inserted_at, timezone('UTC', public.oban_jobs.scheduled_at) AS scheduled_at, timezone('UTC', public.oban_jobs.attempted_at) AS attempted_at, timezone('UTC', public.oban_jobs.cancelled_at) AS cancelled_at, timezone('UTC', public.oban_jobs.completed_at) AS completed_at, timezone('UTC', public.oban_jobs.discarded_at) AS discarded_at),
acked AS
(UPDATE public.oban_jobs SET state='completed', completed_at=timezone('UTC', clock_timestamp()) FROM unnest(CAST($8::BIGINT[] AS BIGINT[]), CAST($9::TIMESTAMP WITH TIME ZONE[] AS TIMESTAMP WITH TIME ZONE[])) AS said(id, attempted_at) WHERE public.oban_jobs.id = any(CAST($8::BIGINT[] AS BIGINT[])) AND public.oban_jobs.id = said.id AND CAST(public.oban_jobs.state AS TEXT) = 'executing' AND public.oban_jobs.attempted_at IS NOT DISTINCT FROM timezone('UTC', said.attempted_at) AND public.oban_jobs.attempted_by = CAST($1::TEXT[] AS TEXT[]) RETURNING public.oban_jobs.id)
 SELECT cycle.id, cycle.worker, cycle.attempt, cycle.max_attempts, cycle.priority, cycle.args, cycle.meta, cycle.tags, cycle.errors, cycle.inserted_at, cycle.scheduled_at, cycle.attempted_at, cycle.cancelled_at, cycle.completed_at, cycle.discarded_at, cycle.acked
FROM (SELECT taken.id AS id, taken.worker AS worker, taken.attempt AS attempt, taken.max_attempts AS max_attempts, taken.priority AS priority, taken.args AS args, taken.meta AS meta, taken.tags AS tags, taken.errors AS errors, taken.inserted_at AS inserted_at, taken.scheduled_at AS scheduled_at, taken.attempted_at AS attempted_at, taken.cancelled_at AS cancelled_at, taken.completed_at AS completed_at, taken.discarded_at AS discarded_at, CAST(NULL AS BIGINT) AS acked
FROM taken UNION ALL SELECT NULL AS id, NULL AS worker, NULL AS attempt, NULL AS max_attempts, NULL AS priority, NULL AS args, NULL AS meta, NULL AS tags, NULL AS errors, NULL AS inserted_at, NULL AS scheduled_at, NULL AS attempted_at, NULL AS cancelled_at, NULL AS completed_at, NULL AS discarded_at, acked.id AS id_1
FROM acked) AS cycle
