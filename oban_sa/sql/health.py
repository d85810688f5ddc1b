"""What a person should know of the server and of our tables: sizes, vacuums, old transactions, notifications."""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Text, TextClause, bindparam, text

from oban_sa.catalog.names import in_text


def server() -> TextClause:
    """One row: `version`, `notify_usage` (0 to 1), `oldest` transaction in seconds and its `pid`, and `read_only`."""
    return text(
        """
        SELECT current_setting('server_version') AS version, pg_notification_queue_usage() AS notify_usage,
            pg_is_in_recovery() AS read_only, oldest.age AS oldest, oldest.pid AS pid
        FROM (SELECT 1) AS one
        LEFT JOIN LATERAL (
            SELECT CAST(extract(epoch FROM clock_timestamp() - xact_start) AS float8) AS age, pid
            FROM pg_stat_activity
            WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
                AND backend_type = 'client backend'
            ORDER BY xact_start LIMIT 1
        ) AS oldest ON true
        """
    )


@lru_cache(maxsize=16)
def tables(schema: str) -> TextClause:
    """Our tables: rows of `name`, `bytes`, `index_bytes`, `live`, `dead`, `vacuumed_at`, `analyzed_at`."""
    return text(
        """
        SELECT c.relname AS name, pg_relation_size(c.oid) AS bytes, pg_indexes_size(c.oid) AS index_bytes,
            coalesce(s.n_live_tup, 0) AS live, coalesce(s.n_dead_tup, 0) AS dead,
            greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
            greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
        WHERE n.nspname = CAST(:schema AS text) AND c.relkind IN ('r', 'p') AND c.relname LIKE 'oban\\_%'
        ORDER BY pg_total_relation_size(c.oid) DESC
        """
    ).bindparams(bindparam("schema", schema, type_=Text()))


@lru_cache(maxsize=16)
def overdue(schema: str) -> TextClause:
    """One row: for how many seconds a job has been due and is not yet `staged`, which a leader does; or NULL."""
    return text(
        f"""
        SELECT CAST(extract(epoch FROM timezone('UTC', clock_timestamp()) - min(scheduled_at)) AS float8) AS staged
        FROM {in_text(schema)}.oban_jobs
        WHERE state IN ('scheduled', 'retryable') AND scheduled_at < timezone('UTC', clock_timestamp())
        """  # noqa: S608 - the name of the schema is quoted
    )
