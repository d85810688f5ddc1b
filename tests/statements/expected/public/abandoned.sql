-- text, after, param_1
WITH lost AS
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'executing' AND public.oban_jobs.attempted_at < timezone('UTC', now()) - CAST($2::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND NOT coalesce(public.oban_jobs.attempted_by[2] ~ '^0ba5[0-9a-f]{4}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', false) AND NOT (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE CAST(public.oban_producers.uuid AS TEXT) = public.oban_jobs.attempted_by[2] AND public.oban_producers.updated_at >= timezone('UTC', now()) - CAST(greatest(CAST($2::FLOAT AS DOUBLE PRECISION), 60) AS DOUBLE PRECISION) * interval '1 second')) AND ((EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE CAST(public.oban_producers.uuid AS TEXT) = public.oban_jobs.attempted_by[2])) OR NOT (EXISTS (SELECT public.oban_peers.name
FROM public.oban_peers
WHERE public.oban_peers.expires_at > timezone('UTC', clock_timestamp()))))
 LIMIT $3::INTEGER FOR UPDATE SKIP LOCKED)
 UPDATE public.oban_jobs SET state=CAST(CASE WHEN coalesce((public.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(public.oban_jobs.attempted_at) #>> '{}'), false) THEN 'cancelled' WHEN (public.oban_jobs.attempt >= public.oban_jobs.max_attempts) THEN 'discarded' ELSE 'available' END AS public.oban_job_state), errors=(public.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', public.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=CASE WHEN (public.oban_jobs.attempt >= public.oban_jobs.max_attempts AND NOT coalesce((public.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(public.oban_jobs.attempted_at) #>> '{}'), false)) THEN timezone('UTC', clock_timestamp()) ELSE public.oban_jobs.discarded_at END, meta=(coalesce(public.oban_jobs.meta, '{}'::jsonb) || jsonb_build_object('rescued', coalesce(CASE WHEN ((public.oban_jobs.meta ->> 'rescued') ~ '^[0-9]{1,8}$') THEN CAST(public.oban_jobs.meta ->> 'rescued' AS INTEGER) END, 0) + 1)), cancelled_at=CASE WHEN coalesce((public.oban_jobs.meta ->> 'cancel_attempted_at') >= (to_jsonb(public.oban_jobs.attempted_at) #>> '{}'), false) THEN timezone('UTC', clock_timestamp()) ELSE public.oban_jobs.cancelled_at END FROM lost WHERE public.oban_jobs.id = lost.id RETURNING public.oban_jobs.id, public.oban_jobs.queue, public.oban_jobs.worker, public.oban_jobs.state, public.oban_jobs.attempt, public.oban_jobs.max_attempts
