"""A queue of which one tenant has almost all jobs that wait, and a sequence that is very long."""

from __future__ import annotations

import json

import psycopg

from oban_sa.jobs.limits import Queue
from tests.factories import producer
from tests.performance.conftest import ROWS
from tests.support import plain_url

QUEUE, LATER, PLAIN, LEDGER, REPORTS = "calls", "later", "plain", "ledger", "reports"
LIMITS = Queue(50, global_limit=1_000, by="partition", each=5, rate="1000/minute")
TENANTS = ROWS // 100
"""Tenants with one job each, besides the one that has all others."""
PRODUCER = "00000000-0000-4000-8000-000000000001"

FILL = [
    # Of three priorities, and the large tenant comes first in each, by its key and by its moments.
    f"""
    INSERT INTO oban_jobs (worker, queue, priority, meta, scheduled_at)
    SELECT 'app.Call', '{QUEUE}', n % 3, '{{"partition": "acme"}}', timezone('UTC', now()) - n * interval '1 second'
    FROM generate_series(1, {ROWS - TENANTS}) AS n
    """,
    f"""
    INSERT INTO oban_jobs (worker, queue, priority, meta)
    SELECT 'app.Call', '{QUEUE}', n % 3, jsonb_build_object('partition', 'tenant' || n)
    FROM generate_series(1, {TENANTS}) AS n
    """,
    # Of the priorities 2 and 5, of which the first has jobs of the large tenant alone.
    f"""
    INSERT INTO oban_jobs (worker, queue, priority, meta)
    SELECT 'app.Call', '{LATER}', CASE WHEN n % 2 = 0 AND n % 20 <> 0 THEN 2 ELSE 5 END, jsonb_build_object(
        'partition', CASE WHEN n % 20 = 0 THEN 'tenant' || n ELSE 'acme' END)
    FROM generate_series(1, {ROWS // 10}) AS n
    """,
    f"""
    INSERT INTO oban_jobs (worker, queue, priority, scheduled_at)
    SELECT 'app.Call', '{PLAIN}', n % 3, timezone('UTC', now()) - n * interval '1 second'
    FROM generate_series(1, {ROWS // 10}) AS n
    """,
    f"""
    INSERT INTO oban_jobs (worker, queue, state, meta, discarded_at)
    SELECT 'app.Book', '{LEDGER}', CAST(CASE n WHEN 1 THEN 'discarded' ELSE 'available' END AS oban_job_state),
           '{{"sequence": "17", "halts": true}}', CASE n WHEN 1 THEN timezone('UTC', now()) END
    FROM generate_series(1, {ROWS // 10}) AS n
    """,
    # Each was fetched before its turn.
    f"""
    INSERT INTO oban_jobs (worker, queue, state, meta, attempted_at)
    SELECT 'app.Book', '{LEDGER}', 'suspended', '{{"sequence": "18", "parked": "2026-01-02T00:00:00"}}', '2026-01-02'
    FROM generate_series(1, {ROWS // 10}) AS n
    """,
    f"""
    INSERT INTO oban_jobs (worker, queue, state, discarded_at)
    SELECT 'app.Book', '{LEDGER}', 'discarded', timezone('UTC', now()) - n * interval '1 second'
    FROM generate_series(1, {ROWS // 10}) AS n
    """,
    # A member of a workflow that waits for very many, most of which have ended.
    f"""
    WITH job AS (
        INSERT INTO oban_jobs (worker, queue, state, meta)
        VALUES ('app.Report', '{REPORTS}', 'suspended', '{{"lane": 0}}') RETURNING id
    ), member AS (
        INSERT INTO oban_sa_members (job_id, flow_id, name, waiting)
        SELECT id, '{PRODUCER}', 'last', {ROWS // 20} FROM job
    ), edge AS (
        INSERT INTO oban_sa_edges (parent_id, child_id) SELECT -n, id FROM job, generate_series(1, {ROWS // 10}) AS n
    )
    INSERT INTO oban_sa_members (job_id, flow_id, name, settled)
    SELECT -n, '{PRODUCER}', 'part' || n, CASE n % 2 WHEN 1 THEN 'c' END FROM generate_series(1, {ROWS // 10}) AS n
    """,
    # The large tenant has all that it may.
    f"""
    UPDATE oban_jobs SET state = 'executing', attempt = 1, attempted_by = '{{node,{PRODUCER}}}'
    WHERE id IN (SELECT id FROM oban_jobs WHERE queue = '{QUEUE}' ORDER BY id LIMIT 5)
        OR id IN (SELECT id FROM oban_jobs WHERE queue = '{LATER}' ORDER BY id LIMIT 5)
    """,
]
"""The statements that fill the table; their names and numbers are ours."""


def fill(url: str) -> None:
    """Write the jobs, and the row of a producer that observes `LIMITS`."""
    assert LIMITS.limits is not None
    row = producer("node", queue=QUEUE, uuid=PRODUCER, limit=50, limits=LIMITS.limits.as_json())
    with psycopg.connect(plain_url(url), autocommit=True) as connection:
        connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
        for statement in FILL:
            connection.execute(statement)
        values = row.values
        connection.execute(
            "INSERT INTO oban_producers (uuid, name, node, queue, meta, started_at, updated_at) "
            "VALUES (%s, %s, %s, %s, %s, timezone('UTC', now()), timezone('UTC', now()) + interval '1 day')",
            [values["uuid"], values["name"], values["node"], values["queue"], json.dumps(json.loads(values["meta"]))],
        )
