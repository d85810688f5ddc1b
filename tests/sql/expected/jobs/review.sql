-- queue, producer
SELECT timezone('UTC', timezone('UTC', clock_timestamp())) AS now, (SELECT CAST(jsonb_agg(coalesce(jobs.oban_producers.meta -> 'unknown', '[]'::jsonb)) AS TEXT) AS jsonb_agg_1
FROM jobs.oban_producers
WHERE jobs.oban_producers.queue = $1::VARCHAR AND jobs.oban_producers.uuid != $2::UUID) AS others
