"""A table of very many jobs that are over, made so that it fits on an ordinary disk.

Rows are written without indexes but for the key, a million to a transaction; the indexes are made afterwards. A row
takes some 430 bytes with all its indexes, a hundred million of them 43 GB, and 8 GB more while the largest index is
made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.ground import Ground, migrated

AT_ONCE = 1_000_000
QUEUES, WORKERS = 8, 20
WAITING = 200_000
# Of a hundred, one was cancelled and one given up, with an error as long as a short traceback.
FILL = """
INSERT INTO oban_jobs (worker, state, queue, priority, attempt, attempted_by, args, errors,
                       inserted_at, scheduled_at, attempted_at, completed_at, cancelled_at, discarded_at)
SELECT 'app.jobs.Worker' || n % 20, state::oban_job_state, 'queue' || n % 8, n % 3, 1, '{node.1,someone}',
       jsonb_build_object('n', n, 'user', n % 1000),
       CASE WHEN state = 'discarded'
            THEN ARRAY[jsonb_build_object('attempt', 1, 'error', repeat('Traceback ', 60))] ELSE '{}' END,
       at, at, at, CASE WHEN state = 'completed' THEN at END, CASE WHEN state = 'cancelled' THEN at END,
       CASE WHEN state = 'discarded' THEN at END
FROM generate_series($1::bigint, $2::bigint) AS n,
     LATERAL (SELECT CASE n % 100 WHEN 7 THEN 'cancelled' WHEN 8 THEN 'discarded' ELSE 'completed' END AS state,
                     timezone('UTC', now()) - interval '1 hour' - ($3::bigint - n) * interval '5 milliseconds' AS at
     ) AS of
"""
LIVE = """
INSERT INTO oban_jobs (worker, state, queue, attempt, args, scheduled_at)
SELECT 'app.jobs.Worker' || n % 20, $2::text::oban_job_state, 'queue' || n % 8, 0, jsonb_build_object('n', n),
       timezone('UTC', now()) + $3::int * (86400 + n) * interval '1 second'
FROM generate_series(1, $1::bigint) AS n
"""
# What two nodes counted: of each minute, hour and day that is kept, for each worker of a queue and for all of it. No
# two rows have the same durations: the server would remember what it made of those that it has seen.
METRICS = """
INSERT INTO oban_sa_metrics (step, queue, worker, at, node, outcomes, failures, run, wait, backlog, oldest)
SELECT kept.step, of.queue, of.worker,
       date_bin(kept.step * interval '1 second', timezone('UTC', now()), '2000-01-01')
           - ago * kept.step * interval '1 second',
       'node.' || node, '{"completed": 98, "cancelled": 1, "discarded": 1}', '{"ValueError": 1}', bins.map, bins.map,
       CASE WHEN of.worker = '*' THEN 10000 END, CASE WHEN of.worker = '*' THEN 5 END
FROM (VALUES (60, 360), (3600, 360), (86400, 100)) AS kept(step, count),
     LATERAL generate_series(0, kept.count - 1) AS ago, generate_series(1, 2) AS node,
     (SELECT DISTINCT 'queue' || n % 8 AS queue, 'app.jobs.Worker' || n % 20 AS worker FROM generate_series(1, 40) AS n
      UNION ALL SELECT 'queue' || n, '*' FROM generate_series(0, 7) AS n) AS of,
     LATERAL (SELECT jsonb_object_agg(400 + n * 7, 1 + abs(hashtext(concat_ws(' ', of.queue, of.worker, node, kept.step,
                                                                              ago, n))) % 9) AS map
              FROM generate_series(1, 20) AS n) AS bins
"""
FLOWS = """
INSERT INTO oban_sa_flows (id, root_id, path, kind, lane, name, total, completed, inserted_at, started_at, completed_at)
SELECT id, id, ARRAY[id], 'workflow', n % 8, 'flow' || n % 10, 3, 3, at, at, at
FROM generate_series(1, $1::bigint) AS n,
     LATERAL (SELECT lpad(to_hex(n), 32, '0')::uuid AS id,
                     timezone('UTC', now()) - ($1::bigint - n) * interval '1 second' AS at) AS of
"""
MEMBERS = """
INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled)
SELECT n, lpad(to_hex((n + 2) / 3), 32, '0')::uuid, 'step' || n % 3, 0, 'c' FROM generate_series(1, $1::bigint * 3) AS n
"""
INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = 'oban_jobs'::regclass AND NOT indisprimary
"""


@asynccontextmanager
async def full(server_url: str, rows: int, *, keep: bool) -> AsyncIterator[Ground]:
    """A database with so many finished jobs, and few that are not; with `keep` it stays, and is taken the next time."""
    name = f"oban_bench_rows_{rows}"
    url = make_url(server_url).set(database=name)
    plain = url.render_as_string(hide_password=False)
    admin = await asyncpg.connect(server_url)
    there = await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", name)
    if there and not await _is_full(plain):
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        there = False
    if not there:
        await admin.execute(f"CREATE DATABASE {name}")
        await migrated(plain)
        await _fill(plain, rows)
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    try:
        yield Ground(plain, engine)
    finally:
        await engine.dispose()
        if not keep:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def _is_full(url: str) -> bool:
    connection = await asyncpg.connect(url)
    comment = await connection.fetchval("SELECT shobj_description(oid, 'pg_database') FROM pg_database "
                                        "WHERE datname = current_database()")  # fmt: skip
    await connection.close()
    return bool(comment == "full")


async def _fill(url: str, rows: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
    indexes = await connection.fetch(INDEXES)
    for name, _ in indexes:
        await connection.execute(f"DROP INDEX {name}")
    began = time.monotonic()
    for first in range(1, rows + 1, AT_ONCE):
        last = min(first + AT_ONCE - 1, rows)
        await connection.execute(FILL, first, last, rows, timeout=3600)
        _say(f"{last:,} of {rows:,} rows, {last / (time.monotonic() - began):,.0f} a second")
    for state, count, after in (("available", WAITING, -1), ("scheduled", 2_000, 1), ("retryable", 2_000, 1)):
        await connection.execute(LIVE, count, state, after)
    # Every hundredth job is a member of a workflow.
    await connection.execute(FLOWS, rows // 300)
    await connection.execute(MEMBERS, rows // 300)
    await connection.execute(METRICS)
    await connection.execute("SET maintenance_work_mem = '1GB'")
    for name, definition in indexes:
        _say(f"making {name}")
        await connection.execute(definition, timeout=4 * 3600)
    _say("VACUUM ANALYZE")
    for name in ("oban_jobs", "oban_sa_metrics", "oban_sa_flows", "oban_sa_members"):
        await connection.execute(f"VACUUM (ANALYZE) {name}", timeout=4 * 3600)
    await connection.execute("ALTER TABLE oban_jobs RESET (autovacuum_enabled)")
    database = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"COMMENT ON DATABASE {database} IS 'full'")
    await connection.execute("CHECKPOINT", timeout=3600)
    await connection.close()
    _say(f"filled in {time.monotonic() - began:,.0f} s")


def _say(what: str) -> None:
    print(f"  {what}", file=sys.stderr, flush=True)
