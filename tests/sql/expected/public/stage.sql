-- channel, limit
WITH due AS MATERIALIZED
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state IN ('scheduled', 'retryable') AND public.oban_jobs.scheduled_at <= timezone('UTC', now()) ORDER BY public.oban_jobs.scheduled_at, public.oban_jobs.id
 LIMIT $2::INTEGER FOR UPDATE SKIP LOCKED),
staged AS
(UPDATE public.oban_jobs SET state='available' FROM due WHERE public.oban_jobs.id = due.id RETURNING public.oban_jobs.queue),
counted AS
(SELECT staged.queue AS queue, count(*) AS count, pg_notify($1::VARCHAR, CAST(json_build_object('queue', staged.queue, 'jobs', count(*), 'turn', CAST(floor(random() * 1000000) AS INTEGER)) AS TEXT)) AS announced
FROM staged GROUP BY staged.queue)
 SELECT counted.queue, counted.count, counted.announced, date_part('epoch', ahead.at) - date_part('epoch', timezone('UTC', clock_timestamp())) AS seconds
FROM (SELECT min(public.oban_jobs.scheduled_at) AS at
FROM public.oban_jobs
WHERE public.oban_jobs.state IN ('scheduled', 'retryable') AND public.oban_jobs.scheduled_at > timezone('UTC', now())) AS ahead LEFT OUTER JOIN counted ON true
