"""A table with a million jobs that are over, made once and looked at by several files."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg
import pytest

from tests.databases import Databases
from tests.sql.test_plans import REGISTER
from tests.support import plain_url

ROWS = int(os.environ.get("OBAN_TEST_ROWS", "1000000"))
BATCH = 50
FILL = """
INSERT INTO oban_jobs (worker, state, queue, attempt, attempted_by, scheduled_at, completed_at)
SELECT 'worker', CAST({state} AS oban_job_state), 'queue' || n % 5, 1, '{{node,00000000-0000-4000-8000-000000000001}}',
       timezone('UTC', now()) + {after} * interval '1 second', timezone('UTC', now()) - n * interval '1 second'
FROM generate_series(1, {count}) AS n
"""
FILLS = [
    FILL.format(state="'discarded'", after="-n", count=ROWS // 50),
    FILL.format(state="'completed'", after="-n", count=ROWS),
    FILL.format(state="'scheduled'", after="(3600 + n)", count=2000),
    FILL.format(state="'available'", after="-n", count=2000),
    FILL.format(state="'executing'", after="-n", count=BATCH),
]


@pytest.fixture(scope="session")
def million(databases: Databases) -> Iterator[str]:
    """The URL of a database with a million jobs that are over, without statistics."""
    with databases.fresh() as url:
        with psycopg.connect(plain_url(url), autocommit=True) as connection:
            connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
            connection.execute(REGISTER)
            for statement in FILLS:
                connection.execute(statement)
        yield url


@pytest.fixture(scope="session", params=["never analyzed", "analyzed"])
def table(request: pytest.FixtureRequest, million: str) -> str:
    if request.param == "analyzed":
        with psycopg.connect(plain_url(million), autocommit=True) as connection:
            connection.execute("ANALYZE oban_jobs")
    return million


@pytest.fixture(scope="session")
def skewed(databases: Databases) -> Iterator[str]:
    """The URL of a database in which one tenant has almost all jobs that wait (`tests.performance.skew`)."""
    from tests.performance import skew

    with databases.fresh() as url:
        skew.fill(url)
        yield url
