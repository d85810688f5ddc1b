"""What a runner does thousands of times a second finds its rows by key, whichever plan PostgreSQL prefers."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa.runner.database.database import Database
from oban_sa.sql.plan import Plan
from tests.support import plain_url

GIVEN = {
    "holder": "'{node,00000000-0000-4000-8000-000000000001}'",
    "producer": "'00000000-0000-4000-8000-000000000001'",
    "queue": "'default'",
    "demand": "200",
    "from_priority": "-32768",
    "from_scheduled_at": "'-infinity'",
    "from_id": "0",
    "ids": "'{1,2}'",
    "attempts": "'{1,1}'",
    "states": "'{completed,completed}'",
    "delays": "'{NULL,NULL}'",
    "errors": "'{NULL,NULL}'",
    "metas": "'{NULL,NULL}'",
    "refunds": "'{f,f}'",
    "attempted_ats": "'{NULL,NULL}'",
    "fences": "'{1,1}'",
    "fence_attempts": "'{1}'",
    "fence_moments": "'{NULL}'",
}


@pytest.mark.parametrize("plan", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("statement", [Plan.fetch, Plan.ack, Plan.ack_and_fetch, Plan.complete_and_fetch])
async def test_no_cycle_reads_the_whole_table(database_url: str, statement: Any, plan: str) -> None:
    engine = create_async_engine(database_url)
    prepared = Database(engine).prepare(statement, Plan()).text
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(
        "INSERT INTO oban_jobs (worker) SELECT 'worker' FROM generate_series(1, 20000); ANALYZE oban_jobs"
    )
    await connection.execute(f"SET plan_cache_mode = {plan}")
    await connection.execute(f"PREPARE hot AS {prepared.sql}")
    given = ", ".join(GIVEN[name] for name in prepared.names)
    lines = [row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE hot({given})")]
    assert any("oban_jobs_pkey" in line for line in lines), lines
    assert not any("Seq Scan on oban_jobs" in line for line in lines), lines
    await connection.close()
    await engine.dispose()
