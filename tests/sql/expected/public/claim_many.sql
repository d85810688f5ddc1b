-- rows
WITH wanted AS MATERIALIZED
(SELECT relation.key AS key, relation.scheduled_at AS scheduled_at, relation.number AS number, relation.id AS id, relation.states AS states, relation.period AS period, relation.joins AS joins, row_number() OVER (PARTITION BY relation.key ORDER BY relation.number) AS place
FROM (SELECT CAST(encode(substr(sha256(convert_to(CAST(each.subject AS TEXT), 'UTF8')), 1, 16), 'hex') AS UUID) AS key, coalesce(CAST(each.scheduled_at AS TIMESTAMP WITHOUT TIME ZONE), (SELECT timezone('UTC', clock_timestamp()) AS timezone_1) + CAST(each.span AS DOUBLE PRECISION) * interval '1 second', timezone('UTC', now())) AS scheduled_at, each.number AS number, each.id AS id, each.states AS states, each.period AS period, each.joins AS joins
FROM json_to_recordset(CAST($1::VARCHAR AS JSON)) AS each(number INTEGER, subject JSONB, id BIGINT, states JSONB, period DOUBLE PRECISION, joins BOOLEAN, scheduled_at TEXT, span DOUBLE PRECISION)) AS relation),
held AS MATERIALIZED
(SELECT wanted.number AS number, wanted.key AS key, wanted.id AS id, pointer.version AS version, seen.id AS blocker, seen.state AS state, seen.scheduled_at AS scheduled_at
FROM wanted LEFT OUTER JOIN LATERAL (SELECT public.oban_sa_uniques.job_id AS job_id, coalesce(public.oban_sa_uniques.version, public.oban_sa_uniques.job_id) AS version
FROM public.oban_sa_uniques
WHERE public.oban_sa_uniques.key = wanted.key
 LIMIT 1) AS pointer ON true LEFT OUTER JOIN LATERAL (SELECT older.id AS id, CAST(older.state AS TEXT) AS state, older.scheduled_at AS scheduled_at
FROM public.oban_jobs AS older
WHERE older.id = pointer.job_id AND (wanted.states ? CAST(older.state AS TEXT)) AND (CAST(wanted.period AS DOUBLE PRECISION) IS NULL OR older.scheduled_at > wanted.scheduled_at - CAST(CAST(wanted.period AS DOUBLE PRECISION) AS DOUBLE PRECISION) * interval '1 second') AND (NOT wanted.joins OR older.state = 'suspended' OR older.scheduled_at > timezone('UTC', clock_timestamp()) - interval '1 second' OR older.inserted_at = timezone('UTC', now()))
 LIMIT 1) AS seen ON true
WHERE wanted.place = 1 ORDER BY wanted.key),
free AS MATERIALIZED
(SELECT first.number AS number, first.key AS key, first.version AS version, coalesce(first.id, nextval('public.oban_jobs_id_seq')) AS id
FROM (SELECT held.number AS number, held.key AS key, held.id AS id, held.version AS version
FROM held
WHERE held.blocker IS NULL ORDER BY held.number) AS first),
claimed AS
(INSERT INTO public.oban_sa_uniques (key, job_id, version) SELECT free.key AS key, free.id AS id, free.version AS version
FROM free ORDER BY free.key ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, version = NULL WHERE excluded.version = coalesce(public.oban_sa_uniques.version, public.oban_sa_uniques.job_id) RETURNING public.oban_sa_uniques.key, public.oban_sa_uniques.job_id)
 SELECT winners.number AS number, CAST(winners.key AS TEXT) AS key, winners.id AS id, CAST(NULL AS BIGINT) AS blocker, CAST(NULL AS TEXT) AS state, CAST(NULL AS TIMESTAMP WITHOUT TIME ZONE) AS scheduled_at, CAST(NULL AS TEXT) AS fields
FROM (SELECT held.number AS number, claimed.key AS key, claimed.job_id AS id
FROM claimed JOIN held ON claimed.key = held.key) AS winners UNION ALL SELECT held.number AS number, CAST(held.key AS TEXT) AS key, CAST(NULL AS BIGINT) AS id, held.blocker AS blocker, held.state AS state, CASE WHEN held.scheduled_at > timestamp '9999-12-31 23:59:59.999999' THEN timestamp '9999-12-31 23:59:59.999999' WHEN held.scheduled_at < timestamp '0001-01-01 00:00:00' THEN timestamp '0001-01-01 00:00:00' ELSE held.scheduled_at END AS scheduled_at, CAST(NULL AS TEXT) AS fields
FROM held
WHERE held.blocker IS NOT NULL UNION ALL SELECT wanted.number AS number, CAST(wanted.key AS TEXT) AS key, CAST(NULL AS BIGINT) AS id, CAST(NULL AS BIGINT) AS blocker, CAST(NULL AS TEXT) AS state, CAST(NULL AS TIMESTAMP WITHOUT TIME ZONE) AS scheduled_at, CAST(NULL AS TEXT) AS fields
FROM wanted
WHERE wanted.place > 1
