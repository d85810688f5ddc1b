--
SELECT jobs.oban_producers.uuid, jobs.oban_producers.node, jobs.oban_producers.queue, CAST(EXTRACT(epoch FROM timezone('UTC', now()) - jobs.oban_producers.updated_at) AS DOUBLE PRECISION) AS silent_for
FROM jobs.oban_producers
WHERE CAST(EXTRACT(epoch FROM timezone('UTC', now()) - jobs.oban_producers.updated_at) AS DOUBLE PRECISION) > CASE WHEN ((jobs.oban_producers.meta ->> 'dead_after') ~ '^[0-9]{1,8}([.][0-9]+)?$') THEN CAST(jobs.oban_producers.meta ->> 'dead_after' AS DOUBLE PRECISION) END FOR UPDATE SKIP LOCKED
