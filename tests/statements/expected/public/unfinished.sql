-- queues
SELECT EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[])) AND public.oban_jobs.attempt < public.oban_jobs.max_attempts) AS available, EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'executing' AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS executing, EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state IN ('scheduled', 'retryable') AND public.oban_jobs.scheduled_at <= timezone('UTC', now()) AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS due
