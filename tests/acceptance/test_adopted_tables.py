"""Tables that another member of the family made are worked on as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from oban_sa import job
from oban_sa.workers import Registry
from tests.databases import migrate
from tests.runner.conftest import House


@pytest.mark.parametrize("family", ["python_0_7", "elixir_v14"])
async def test_tables_made_by_the_other_are_worked_on_as_they_are(empty_database_url: str, family: str) -> None:
    ddl = (Path(__file__).parent.parent / "migrations" / f"{family}.sql").read_text()
    engine = create_async_engine(empty_database_url)
    async with engine.begin() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        await raw.driver_connection.execute(ddl + "; RESET ALL")
    await engine.dispose()
    migrate(empty_database_url)
    engine = create_async_engine(empty_database_url)
    house = House(engine, async_sessionmaker(engine, expire_on_commit=False), Registry())

    @job(registry=house.registry)
    async def fails() -> None:
        raise ValueError("boo")

    @job(registry=house.registry)
    async def works() -> None: ...

    failing, working = await house.enqueue(fails.new(), works.new())
    await house.drain()
    assert (await house.job(failing)).errors[0]["error"].startswith("ValueError: boo")
    assert (await house.job(working)).state == "completed"
    await engine.dispose()
