-- pids
SELECT pg_catalog.pg_stat_activity.pid, CAST(date_part('epoch', clock_timestamp() - pg_catalog.pg_stat_activity.state_change) AS DOUBLE PRECISION) AS idle
FROM pg_catalog.pg_stat_activity
WHERE pg_catalog.pg_stat_activity.pid = any($1::INTEGER[]) AND pg_catalog.pg_stat_activity.state IN ('idle in transaction', 'idle in transaction (aborted)')
