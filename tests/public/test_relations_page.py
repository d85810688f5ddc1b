"""What docs/relations.md tells to write runs in its order."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job
from tests.public import pages

NAME = "relations_of_the_page"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, sessions: async_sessionmaker[AsyncSession]) -> dict[str, Any]:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    vars(module)["sessions"] = sessions
    return vars(module)


async def test_the_blocks_run_in_order(page: dict[str, Any], engine: AsyncEngine) -> None:
    await pages.run(page, pages.pieces("relations"), engine)
    assert [order.id for order in page["waiting"]] == [order.id for order in page["orders"]] == [page["order"].id]
    assert page["failed"] == []
    assert [job.id for job in page["ada"].jobs] == [page["order"].job_id]

    job: Job = page["order"].job
    await page["show_progress"](job, 40)
    async with engine.connect() as connection:
        for name in ("by_number", "by_text", "by_content", "by_key", "by_tag"):
            await connection.execute(page[name])
    async with page["sessions"]() as session:
        assert (await session.get(page["Order"], page["order"].id)).progress == 40
