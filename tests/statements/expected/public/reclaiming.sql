-- queue, holder, known
UPDATE public.oban_jobs SET state='available', attempt=(public.oban_jobs.attempt - 1) WHERE public.oban_jobs.state = 'executing' AND public.oban_jobs.queue = $1::VARCHAR AND public.oban_jobs.attempted_by = CAST($2::TEXT[] AS TEXT[]) AND public.oban_jobs.id != all(CAST($3::BIGINT[] AS BIGINT[])) RETURNING public.oban_jobs.id
