-- channel, limit
WITH due AS MATERIALIZED
(SELECT jobs.oban_jobs.id AS id
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state IN ('scheduled', 'retryable') AND jobs.oban_jobs.scheduled_at <= timezone('UTC', now()) ORDER BY jobs.oban_jobs.scheduled_at, jobs.oban_jobs.id
 LIMIT $2::INTEGER FOR UPDATE SKIP LOCKED),
staged AS
(UPDATE jobs.oban_jobs SET state='available' FROM due WHERE jobs.oban_jobs.id = due.id RETURNING jobs.oban_jobs.queue),
counted AS
(SELECT staged.queue AS queue, count(*) AS count, pg_notify($1::VARCHAR, CAST(json_build_object('queue', staged.queue, 'jobs', count(*), 'turn', CAST(floor(random() * 1000000) AS INTEGER)) AS TEXT)) AS announced
FROM staged GROUP BY staged.queue)
 SELECT counted.queue, counted.count, counted.announced, date_part('epoch', ahead.at) - date_part('epoch', timezone('UTC', clock_timestamp())) AS seconds
FROM (SELECT min(jobs.oban_jobs.scheduled_at) AS at
FROM jobs.oban_jobs
WHERE jobs.oban_jobs.state IN ('scheduled', 'retryable') AND jobs.oban_jobs.scheduled_at > timezone('UTC', now())) AS ahead LEFT OUTER JOIN counted ON true
