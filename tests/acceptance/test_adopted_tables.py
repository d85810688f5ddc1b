"""Tables that another member of the family made are worked on as they are."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from oban_sa import job
from oban_sa.workers import Registry
from tests.acceptance import jobs
from tests.databases import Server, migrate
from tests.ownserver import OwnServer
from tests.runner.conftest import Harness
from tests.support import eventually, forked, plain_url


async def adopted(url: str, family: str) -> None:
    """Make the tables as the other does, and migrate them to ours."""
    ddl = (Path(__file__).parent.parent / "migrations" / f"{family}.sql").read_text()
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.execute(ddl + "; RESET ALL")
    await engine.dispose()
    migrate(url)


@pytest.mark.parametrize("family", ["python_0_7", "elixir_v14"])
async def test_tables_made_by_the_other_are_worked_on_as_they_are(empty_database_url: str, family: str) -> None:
    await adopted(empty_database_url, family)
    engine = create_async_engine(empty_database_url)
    harness = Harness(engine, async_sessionmaker(engine, expire_on_commit=False), Registry())

    @job(registry=harness.registry)
    async def fails() -> None:
        raise ValueError("boo")

    @job(registry=harness.registry)
    async def works() -> None: ...

    failing, working = await harness.enqueue(fails.new(), works.new())
    await harness.drain()
    assert (await harness.job(failing)).errors[0]["error"].startswith("ValueError: boo")
    assert (await harness.job(working)).state == "completed"
    await engine.dispose()


@pytest.mark.chaos
async def test_a_job_outlives_a_crash_that_empties_the_others_table_of_producers(own_server: OwnServer) -> None:
    """Oban for Python makes `oban_producers` unlogged: a crash of the server forgets who held what."""
    with Server(own_server.url) as server:
        url = server.create_database("adopted")
    await adopted(url, "python_0_7")
    command = [
        *("-m", "oban_sa.runner", "--database-url", plain_url(url), "--import", "tests.acceptance.jobs"),
        *("--heartbeat-every", "0.2", "--dead-after", "1", "--log-level", "info"),
    ]
    engine = create_async_engine(url, pool_pre_ping=True)
    harness = Harness(engine, async_sessionmaker(engine, expire_on_commit=False), Registry())
    [job_id] = await harness.enqueue(jobs.waits.new(seconds=1))
    with forked(command) as first:
        await first.says(f"started {job_id} 1")
        await eventually(lambda: harness.sql("SELECT uuid FROM oban_producers"))
        first.kill()
    await asyncio.to_thread(own_server.kill)
    await asyncio.to_thread(own_server.start)
    assert await harness.sql("SELECT uuid FROM oban_producers") == []
    assert (await harness.job(job_id)).state == "executing"
    with forked(command) as second:
        done = await harness.becomes(job_id, "completed", within=60)
        second.terminate()
        assert await second.ended() == 0
    assert done.attempt == 2
    assert done.errors[0]["error"].startswith("AttemptOrphaned: node")
    await engine.dispose()
