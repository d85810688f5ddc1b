-- demand, rate_name, rate_key, rate_n, rate_per, rate_algorithm, rate_burst, holder, rate_weight, queue, producer, from_priority, from_scheduled_at, from_id
WITH done AS MATERIALIZED
(SELECT 0 AS n),
rate_left AS MATERIALIZED
(SELECT CAST(public.oban_sa_rate($2::VARCHAR, $3::VARCHAR, $4::INTEGER, $5::FLOAT, $6::VARCHAR, $7::INTEGER, CAST(NULL AS BIGINT), CAST(NULL AS INTEGER), CAST(NULL AS TIMESTAMP WITHOUT TIME ZONE)) AS INTEGER) AS "left"
FROM done),
rate AS MATERIALIZED
(SELECT rate_left."left" AS at_most, rate_left."left" AS "left"
FROM rate_left),
room AS MATERIALIZED
(SELECT CAST(greatest(least($1::INTEGER, (SELECT rate.at_most
FROM rate)), 0) AS INTEGER) AS granted, timezone('UTC', clock_timestamp()) AS at, (SELECT rate."left"
FROM rate) AS "left"
FROM rate),
picked AS MATERIALIZED
(SELECT public.oban_jobs.id AS id
FROM public.oban_jobs
WHERE public.oban_jobs.state = 'available' AND public.oban_jobs.queue = $10::VARCHAR AND public.oban_jobs.attempt < public.oban_jobs.max_attempts AND (EXISTS (SELECT public.oban_producers.uuid
FROM public.oban_producers
WHERE public.oban_producers.uuid = $11::UUID)) AND (public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id) >= ($12::SMALLINT, $13::TIMESTAMP WITHOUT TIME ZONE, $14::BIGINT) ORDER BY public.oban_jobs.priority, public.oban_jobs.scheduled_at, public.oban_jobs.id
 LIMIT (SELECT room.granted
FROM room) FOR UPDATE SKIP LOCKED),
weighed AS MATERIALIZED
(SELECT public.oban_jobs.id AS id, CAST(least(greatest(CASE WHEN (CASE WHEN (jsonb_typeof(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[])) = 'number') THEN CAST(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[]) AS NUMERIC) ELSE 1 END = floor(CASE WHEN (jsonb_typeof(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[])) = 'number') THEN CAST(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[]) AS NUMERIC) ELSE 1 END)) THEN CASE WHEN (jsonb_typeof(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[])) = 'number') THEN CAST(jsonb_build_object('args', public.oban_jobs.args, 'meta', public.oban_jobs.meta) #> CAST($9::TEXT[] AS TEXT[]) AS NUMERIC) ELSE 1 END ELSE 1 END, 1), coalesce(CAST($7::INTEGER AS INTEGER), CAST($4::INTEGER AS INTEGER))) AS INTEGER) AS weight, public.oban_jobs.priority AS priority, public.oban_jobs.scheduled_at AS scheduled_at
FROM public.oban_jobs
WHERE public.oban_jobs.id = any(array((SELECT picked.id
FROM picked)))),
affordable AS MATERIALIZED
(SELECT CASE WHEN (summed.total <= (SELECT room."left"
FROM room)) THEN summed.id END AS id, summed.weight AS weight, summed.total AS total
FROM (SELECT weighed.id AS id, weighed.weight AS weight, sum(weighed.weight) OVER (ORDER BY weighed.priority, weighed.scheduled_at, weighed.id) AS total
FROM weighed) AS summed),
taken AS
(UPDATE public.oban_jobs SET state='executing', attempt=(public.oban_jobs.attempt + 1), attempted_at=(SELECT room.at
FROM room), attempted_by=CAST($8::TEXT[] AS TEXT[]) WHERE public.oban_jobs.id = any(array((SELECT affordable.id
FROM affordable))) RETURNING public.oban_jobs.id, public.oban_jobs.worker, public.oban_jobs.attempt, public.oban_jobs.max_attempts, public.oban_jobs.priority, CAST(public.oban_jobs.args AS TEXT) AS args, CAST(public.oban_jobs.meta AS TEXT) AS meta, public.oban_jobs.tags, CAST(to_jsonb(public.oban_jobs.errors) AS TEXT) AS errors, timezone('UTC', CASE WHEN public.oban_jobs.inserted_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN public.oban_jobs.inserted_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE public.oban_jobs.inserted_at END) AS inserted_at, timezone('UTC', CASE WHEN public.oban_jobs.scheduled_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN public.oban_jobs.scheduled_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE public.oban_jobs.scheduled_at END) AS scheduled_at, timezone('UTC', public.oban_jobs.attempted_at) AS attempted_at, timezone('UTC', CASE WHEN public.oban_jobs.cancelled_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN public.oban_jobs.cancelled_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE public.oban_jobs.cancelled_at END) AS cancelled_at, timezone('UTC', CASE WHEN public.oban_jobs.completed_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN public.oban_jobs.completed_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE public.oban_jobs.completed_at END) AS completed_at, timezone('UTC', CASE WHEN public.oban_jobs.discarded_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN public.oban_jobs.discarded_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE public.oban_jobs.discarded_at END) AS discarded_at),
told AS MATERIALIZED
(SELECT CAST(CASE WHEN (EXISTS (SELECT 1
FROM affordable
WHERE affordable.id IS NULL)) THEN (SELECT count(*) AS count_1
FROM taken) ELSE room.granted END AS INTEGER) AS granted, CAST(public.oban_sa_rate($2::VARCHAR, $3::VARCHAR, $4::INTEGER, $5::FLOAT, $6::VARCHAR, $7::INTEGER, CAST(coalesce((SELECT sum(affordable.weight) AS sum_1
FROM affordable
WHERE affordable.id IS NOT NULL), 0) AS BIGINT), CAST(coalesce((SELECT affordable.weight
FROM affordable
WHERE affordable.id IS NULL ORDER BY affordable.total
 LIMIT 1), 1) AS INTEGER), room.at) AS DOUBLE PRECISION) AS spent_for, CAST(NULL AS DOUBLE PRECISION) AS next_in, CAST(NULL AS INTEGER) AS skipped, CAST(NULL AS TEXT) AS last_key
FROM room)
 SELECT cycle.id, cycle.worker, cycle.attempt, cycle.max_attempts, cycle.priority, cycle.args, cycle.meta, cycle.tags, cycle.errors, cycle.inserted_at, cycle.scheduled_at, cycle.attempted_at, cycle.cancelled_at, cycle.completed_at, cycle.discarded_at, cycle.acked, cycle.granted, cycle.spent_for, cycle.next_in, cycle.skipped, cycle.last_key
FROM (SELECT taken.id AS id, taken.worker AS worker, taken.attempt AS attempt, taken.max_attempts AS max_attempts, taken.priority AS priority, taken.args AS args, taken.meta AS meta, taken.tags AS tags, taken.errors AS errors, taken.inserted_at AS inserted_at, taken.scheduled_at AS scheduled_at, taken.attempted_at AS attempted_at, taken.cancelled_at AS cancelled_at, taken.completed_at AS completed_at, taken.discarded_at AS discarded_at, CAST(NULL AS BIGINT) AS acked, CAST(NULL AS INTEGER) AS granted, CAST(NULL AS DOUBLE PRECISION) AS spent_for, CAST(NULL AS DOUBLE PRECISION) AS next_in, CAST(NULL AS INTEGER) AS skipped, CAST(NULL AS TEXT) AS last_key
FROM taken UNION ALL SELECT NULL AS id, NULL AS worker, NULL AS attempt, NULL AS max_attempts, NULL AS priority, NULL AS args, NULL AS meta, NULL AS tags, NULL AS errors, NULL AS inserted_at, NULL AS scheduled_at, NULL AS attempted_at, NULL AS cancelled_at, NULL AS completed_at, NULL AS discarded_at, CAST(NULL AS BIGINT) AS acked, told.granted AS granted, told.spent_for AS spent_for, told.next_in AS next_in, told.skipped AS skipped, told.last_key AS last_key
FROM told) AS cycle
