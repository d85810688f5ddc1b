-- text, param_1, param_2
WITH RECURSIVE queues(queue) AS
(SELECT min(public.oban_jobs.queue) AS queue
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' UNION ALL SELECT (SELECT min(public.oban_jobs.queue) AS min_1
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue > queues.queue) AS anon_1
FROM queues
WHERE queues.queue IS NOT NULL),
heads AS
(SELECT head.id AS id
FROM queues JOIN LATERAL (SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = queues.queue ORDER BY public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id
 LIMIT $2::INTEGER) AS head ON true),
spent AS
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs, heads
WHERE public.oban_jobs.id = heads.id AND CAST(public.oban_jobs.state AS TEXT) = 'available' AND public.oban_jobs.attempt >= public.oban_jobs.max_attempts
 LIMIT $3::INTEGER FOR UPDATE OF oban_jobs SKIP LOCKED)
 UPDATE public.oban_jobs SET state='discarded', errors=(public.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', public.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=timezone('UTC', clock_timestamp()) FROM spent WHERE public.oban_jobs.id = spent.id RETURNING public.oban_jobs.id, public.oban_jobs.queue, public.oban_jobs.worker, public.oban_jobs.state, public.oban_jobs.attempt, public.oban_jobs.max_attempts
