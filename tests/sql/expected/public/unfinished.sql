-- queues, unknown, unknown_after, overdue
SELECT EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[])) AND public.oban_jobs.attempt < public.oban_jobs.max_attempts AND (NOT (public.oban_jobs.worker = any(CAST($2::TEXT[] AS TEXT[])) OR (public.oban_jobs.worker || E'\n' || coalesce(public.oban_jobs.meta ->> 'args_version', '1')) = any(CAST($2::TEXT[] AS TEXT[]))) OR public.oban_jobs.scheduled_at <= timezone('UTC', now()) - CAST($3::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND (public.oban_jobs.worker = any(CAST($4::TEXT[] AS TEXT[])) OR (public.oban_jobs.worker || E'\n' || coalesce(public.oban_jobs.meta ->> 'args_version', '1')) = any(CAST($4::TEXT[] AS TEXT[]))))) AS available, EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'executing' AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS executing, EXISTS (SELECT public.oban_jobs.id
FROM public.oban_jobs
WHERE public.oban_jobs.state IN ('scheduled', 'retryable') AND public.oban_jobs.scheduled_at <= timezone('UTC', now()) AND public.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS due
