-- of_subject, of_scheduled_at, of_span, of_number, of_id, of_states, of_period, of_joins, param_1
WITH held AS MATERIALIZED
(SELECT wanted.number AS number, wanted.key AS key, wanted.id AS id, pointer.version AS version, CASE WHEN wanted.joins THEN to_share.id ELSE seen.id END AS blocker, CASE WHEN wanted.joins THEN to_share.state ELSE seen.state END AS state, CASE WHEN wanted.joins THEN to_share.scheduled_at ELSE seen.scheduled_at END AS scheduled_at
FROM (SELECT relation.key AS key, relation.scheduled_at AS scheduled_at, relation.number AS number, relation.id AS id, relation.states AS states, relation.period AS period, relation.joins AS joins, 1 AS place
FROM (SELECT CAST(encode(substr(sha256(convert_to(CAST(CAST($1::VARCHAR AS JSONB) AS TEXT), 'UTF8')), 1, 16), 'hex') AS UUID) AS key, coalesce(CAST(CAST($2::VARCHAR AS TEXT) AS TIMESTAMP WITHOUT TIME ZONE), (SELECT timezone('UTC', clock_timestamp()) AS timezone_1) + CAST(CAST($3::FLOAT AS DOUBLE PRECISION) AS DOUBLE PRECISION) * interval '1 second', timezone('UTC', now())) AS scheduled_at, CAST($4::INTEGER AS INTEGER) AS number, CAST($5::BIGINT AS BIGINT) AS id, CAST($6::VARCHAR AS JSONB) AS states, CAST($7::FLOAT AS DOUBLE PRECISION) AS period, CAST($8::BOOLEAN AS BOOLEAN) AS joins) AS relation
 LIMIT ALL OFFSET $9::INTEGER) AS wanted LEFT OUTER JOIN LATERAL (SELECT jobs.oban_sa_uniques.job_id AS job_id, coalesce(jobs.oban_sa_uniques.version, jobs.oban_sa_uniques.job_id) AS version
FROM jobs.oban_sa_uniques
WHERE jobs.oban_sa_uniques.key = wanted.key
 LIMIT 1) AS pointer ON true LEFT OUTER JOIN LATERAL (SELECT older.id AS id, CAST(older.state AS TEXT) AS state, older.scheduled_at AS scheduled_at
FROM jobs.oban_jobs AS older
WHERE older.id = pointer.job_id AND (wanted.states ? CAST(older.state AS TEXT)) AND (CAST(wanted.period AS DOUBLE PRECISION) IS NULL OR older.scheduled_at > wanted.scheduled_at - CAST(CAST(wanted.period AS DOUBLE PRECISION) AS DOUBLE PRECISION) * interval '1 second') AND (NOT wanted.joins OR older.state = 'suspended' OR older.scheduled_at > timezone('UTC', clock_timestamp()) - interval '1 second' OR older.inserted_at = timezone('UTC', now()))
 LIMIT 1) AS seen ON true LEFT OUTER JOIN LATERAL (SELECT older.id AS id, CAST(older.state AS TEXT) AS state, older.scheduled_at AS scheduled_at
FROM jobs.oban_jobs AS older
WHERE wanted.joins AND older.id = seen.id AND (wanted.states ? CAST(older.state AS TEXT)) AND (CAST(wanted.period AS DOUBLE PRECISION) IS NULL OR older.scheduled_at > wanted.scheduled_at - CAST(CAST(wanted.period AS DOUBLE PRECISION) AS DOUBLE PRECISION) * interval '1 second') AND (NOT wanted.joins OR older.state = 'suspended' OR older.scheduled_at > timezone('UTC', clock_timestamp()) - interval '1 second' OR older.inserted_at = timezone('UTC', now()))
 LIMIT 1 FOR SHARE OF older) AS to_share ON true
WHERE wanted.place = 1 ORDER BY wanted.key),
claimed AS
(INSERT INTO jobs.oban_sa_uniques (key, job_id, version) SELECT free.key AS key, free.id AS id, free.version AS version
FROM (SELECT held.key AS key, held.version AS version, coalesce(held.id, nextval('jobs.oban_jobs_id_seq')) AS id
FROM held
WHERE held.blocker IS NULL) AS free ORDER BY free.key ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, version = NULL WHERE excluded.version = coalesce(jobs.oban_sa_uniques.version, jobs.oban_sa_uniques.job_id) RETURNING jobs.oban_sa_uniques.key, jobs.oban_sa_uniques.job_id)
 SELECT winners.number AS number, CAST(winners.key AS TEXT) AS key, winners.id AS id, CAST(NULL AS BIGINT) AS blocker, CAST(NULL AS TEXT) AS state, CAST(NULL AS TIMESTAMP WITHOUT TIME ZONE) AS scheduled_at, CAST(NULL AS TEXT) AS fields
FROM (SELECT 0 AS number, claimed.key AS key, claimed.job_id AS id
FROM claimed) AS winners UNION ALL SELECT held.number AS number, CAST(held.key AS TEXT) AS key, CAST(NULL AS BIGINT) AS id, held.blocker AS blocker, held.state AS state, CASE WHEN held.scheduled_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN held.scheduled_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE held.scheduled_at END AS scheduled_at, CAST(NULL AS TEXT) AS fields
FROM held
WHERE held.blocker IS NOT NULL
