-- worker, queue, state, meta, tags, max_attempts, priority, scheduled_at, span, args, channel, payloads
WITH made AS
(INSERT INTO public.oban_jobs (worker, queue, state, args, meta, tags, max_attempts, priority, scheduled_at) SELECT CAST($1::VARCHAR AS TEXT) AS worker, CAST($2::VARCHAR AS TEXT) AS queue, CAST($3::VARCHAR AS public.oban_job_state) AS state, CAST(each.args AS JSONB) AS args, CAST($4::VARCHAR AS JSONB) AS meta, CAST($5::VARCHAR AS TEXT[]) AS tags, CAST($6::INTEGER AS INTEGER) AS max_attempts, CAST($7::INTEGER AS INTEGER) AS priority, coalesce(CAST($8::VARCHAR AS TIMESTAMP WITHOUT TIME ZONE), (SELECT timezone('UTC', clock_timestamp()) AS timezone_1) + CAST($9::FLOAT AS DOUBLE PRECISION) * interval '1 second', timezone('UTC', now())) AS scheduled_at
FROM json_array_elements(CAST($10::VARCHAR AS JSON)) WITH ORDINALITY AS each(args, number) ORDER BY each.number)
 SELECT pg_notify($11::VARCHAR, payload) AS pg_notify_1
FROM json_array_elements_text(CAST($12::VARCHAR AS JSON)) AS payload
