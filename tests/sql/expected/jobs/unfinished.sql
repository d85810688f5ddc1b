-- queues, unknown, unknown_after, overdue
SELECT EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'available' AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[])) AND jobs.oban_jobs.attempt < jobs.oban_jobs.max_attempts AND (NOT (jobs.oban_jobs.worker = any(CAST($2::TEXT[] AS TEXT[])) OR (jobs.oban_jobs.worker || E'\n' || coalesce(jobs.oban_jobs.meta ->> 'args_version', '1')) = any(CAST($2::TEXT[] AS TEXT[]))) OR jobs.oban_jobs.scheduled_at <= timezone('UTC', now()) - CAST($3::FLOAT AS DOUBLE PRECISION) * interval '1 second' AND (jobs.oban_jobs.worker = any(CAST($4::TEXT[] AS TEXT[])) OR (jobs.oban_jobs.worker || E'\n' || coalesce(jobs.oban_jobs.meta ->> 'args_version', '1')) = any(CAST($4::TEXT[] AS TEXT[]))))) AS available, EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state = 'executing' AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS executing, EXISTS (SELECT jobs.oban_jobs.id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state IN ('scheduled', 'retryable') AND jobs.oban_jobs.scheduled_at <= timezone('UTC', now()) AND jobs.oban_jobs.queue = any(CAST($1::TEXT[] AS TEXT[]))) AS due
