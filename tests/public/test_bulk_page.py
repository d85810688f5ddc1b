"""What docs/bulk.md tells to write runs in its order."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job
from tests.public import pages

NAME = "bulk_of_the_page"


async def test_the_blocks_run_in_order(
    monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    page: dict[str, Any] = vars(module)
    page.update(engine=engine, sessions=sessions)
    await pages.run(page, pages.pieces("bulk"), engine)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 12_000
        assert page["count"] == 1_000
