-- text, param_1
WITH spent AS
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.attempt >= public.oban_jobs.max_attempts
 LIMIT $2::INTEGER FOR UPDATE SKIP LOCKED)
 UPDATE public.oban_jobs SET state='discarded', errors=(public.oban_jobs.errors || jsonb_build_object('at', to_char(timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'attempt', public.oban_jobs.attempt, 'error', $1::VARCHAR)), discarded_at=timezone('UTC', clock_timestamp()) FROM spent WHERE public.oban_jobs.id = spent.id RETURNING public.oban_jobs.id, public.oban_jobs.queue, public.oban_jobs.worker, public.oban_jobs.state, public.oban_jobs.attempt, public.oban_jobs.max_attempts
