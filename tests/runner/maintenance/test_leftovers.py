"""Rows of unique keys, rates and leases go once no job and no holder needs them, and never before."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql import asyncpg as dialect

from oban_sa import telemetry
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import leftovers
from oban_sa.runner.maintenance.leftovers import EVERY, Leftovers
from oban_sa.sql.leftovers import forget_keys
from tests.runner.conftest import Harness
from tests.support import plain_url

SOURCE = telemetry.Source(node="leftovers.node")


@asynccontextmanager
async def sweeping(harness: Harness) -> AsyncIterator[Leftovers]:
    database = Database(harness.engine)
    leader = Leader(database, source=SOURCE, lasts=20)
    await leader.tick()
    swept = Leftovers(database, leader)
    try:
        yield swept
    finally:
        await swept.close()
        await leader.close()
        await database.shared.close()


async def sweep(harness: Harness) -> None:
    async with sweeping(harness) as swept:
        while await swept.tick() < EVERY:
            pass


async def a_job(harness: Harness) -> int:
    [row] = await harness.sql("INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
    return int(row[0])


async def a_key(harness: Harness, number: int, job_id: int) -> UUID:
    key = UUID(int=number)
    await harness.sql("INSERT INTO oban_sa_uniques (key, job_id) VALUES (:key, :job_id)", key=key, job_id=job_id)
    return key


async def keys(harness: Harness) -> list[int]:
    return [row[0].int for row in await harness.sql("SELECT key FROM oban_sa_uniques ORDER BY key")]


async def test_keys_go_with_their_jobs(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "BATCH", 2)
    kept = await a_job(harness)
    for number in range(1, 8):
        await a_key(harness, number, kept if number in (1, 4, 5) else kept + 1000)
    await sweep(harness)
    assert await keys(harness) == [1, 4, 5]


async def test_nothing_goes_while_another_node_leads(harness: Harness) -> None:
    await a_key(harness, 1, 1000)
    async with sweeping(harness) as swept:
        await harness.sql("UPDATE oban_leaders SET node = 'another', expires_at = timezone('UTC', now()) + '1 minute'")
        database = Database(harness.engine)
        other = Leftovers(database, Leader(database, source=telemetry.Source(node="other"), lasts=20))
        assert await other.tick() == EVERY
        assert await keys(harness) == [1]
        await swept.tick()
    assert await keys(harness) == []


async def test_a_key_that_is_being_claimed_is_passed_over(harness: Harness, database_url: str) -> None:
    key = await a_key(harness, 1, 1000)
    claiming = await asyncpg.connect(plain_url(database_url))
    try:
        async with claiming.transaction():
            job_id = await claiming.fetchval("INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
            await claiming.execute("UPDATE oban_sa_uniques SET job_id = $1 WHERE key = $2", job_id, key)
            async with asyncio.timeout(5):
                await sweep(harness)
    finally:
        await claiming.close()
    assert await keys(harness) == [1]


async def test_a_key_that_was_claimed_since_the_snapshot_stays(harness: Harness, database_url: str) -> None:
    key = await a_key(harness, 1, 1000)
    statement: Any = forget_keys().compile(dialect=dialect.dialect())  # type: ignore[attr-defined,no-untyped-call]
    # Halfway, as a busy server might be: the snapshot is taken, and no row is locked yet.
    slow, found = re.subn(r"WHERE NOT \(EXISTS", "WHERE pg_sleep(0.5) IS NOT NULL AND NOT (EXISTS", str(statement))
    assert found == 1
    values = {"after": UUID(int=0), "batch": 10}
    sweeper, claiming = [await asyncpg.connect(plain_url(database_url)) for _ in range(2)]
    try:
        swept = asyncio.create_task(sweeper.fetchrow(slow, *(values[name] for name in statement.positiontup)))
        await asyncio.sleep(0.2)
        async with claiming.transaction():
            job_id = await claiming.fetchval("INSERT INTO oban_jobs (worker) VALUES ('w') RETURNING id")
            await claiming.execute("UPDATE oban_sa_uniques SET job_id = $1 WHERE key = $2", job_id, key)
        assert not swept.done()
        row = await swept
    finally:
        await sweeper.close()
        await claiming.close()
    assert (row["seen"], row["count"]) == (1, 0)
    assert await keys(harness) == [1]


async def test_rates_and_leases_go_when_they_say_nothing_any_more(harness: Harness) -> None:
    await harness.sql(
        "INSERT INTO oban_sa_rates (name, full_at) VALUES ('new', NULL), ('over', timezone('UTC', now()) - interval "
        "'2 minutes'), ('runs', timezone('UTC', now()) + interval '2 minutes')"
    )
    await harness.sql(
        "INSERT INTO oban_sa_leases (name, holder, expires_at) VALUES ('over', :holder, timezone('UTC', now()) - "
        "interval '2 minutes'), ('held', :holder, timezone('UTC', now()) + interval '2 minutes')",
        holder=UUID(int=1),
    )
    await sweep(harness)
    assert [row[0] for row in await harness.sql("SELECT name FROM oban_sa_rates ORDER BY name")] == ["new", "runs"]
    assert [row[0] for row in await harness.sql("SELECT name FROM oban_sa_leases")] == ["held"]


async def test_journals_and_signals_go_with_their_jobs_in_small_batches(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "BATCH", 3)
    kept, *others = [await a_job(harness) for _ in range(5)]
    for job_id in (kept, *others):
        for name in ("a", "b"):
            await harness.sql(
                "INSERT INTO oban_sa_journal (job_id, name, code, attempt) VALUES (:job_id, :name, 'f', 1)",
                job_id=job_id,
                name=name,
            )
        await harness.sql("INSERT INTO oban_sa_signals (job_id, name) VALUES (:job_id, 'go')", job_id=job_id)
    await harness.sql("DELETE FROM oban_jobs WHERE id <> :kept", kept=kept)
    await sweep(harness)
    assert [row[0] for row in await harness.sql("SELECT job_id FROM oban_sa_journal")] == [kept, kept]
    assert [row[0] for row in await harness.sql("SELECT job_id FROM oban_sa_signals")] == [kept]
