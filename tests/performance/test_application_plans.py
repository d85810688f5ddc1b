"""What is planned on the application's own connections, where nobody has told the planner anything."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.performance.test_million import ran
from tests.sql.test_plans import KEY
from tests.support import plain_url

FILL = "INSERT INTO oban_jobs (worker, state, attempt) SELECT 'w', 'executing', 1 FROM generate_series(1, $1::int)"


@pytest.fixture(params=[0, 1_000, 20_000], ids=["empty", "fresh", "backlog"])
async def application(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the application's, beside a table that nobody has analyzed."""
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
    await connection.execute(FILL, request.param)
    yield connection
    await connection.close()


@pytest.mark.parametrize("planned", ["force_custom_plan", "force_generic_plan"])
async def test_the_ack_of_a_session_worker_goes_by_primary_key(application: asyncpg.Connection, planned: str) -> None:
    await application.execute(f"SET plan_cache_mode = {planned}")
    plan = await ran(application, "ack_one", job_id=500)
    assert plan.indexes == {KEY}
    assert plan.scanned == []
    assert plan.buffers < 30
