"""What docs/arguments.md tells to write runs in its order."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, Runner
from tests.public import pages

NAME = "arguments_of_the_page"


async def test_the_blocks_run_in_order(
    monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    page: dict[str, Any] = vars(module)
    page.update(engine=engine, sessions=sessions)
    await pages.run(page, pages.pieces("arguments"), engine)
    assert [found.args for found in page["found"]] == [{"user": {"entity": "User", "id": page["user"].id}}]
    async with sessions.begin() as session:
        old = Job(f"{NAME}.Ship", args={"recipient": "Ada", "kilos": 1.5})
        wrong = Job(f"{NAME}.SendInvoice", args={"number": str(page["UUID"](int=1)), "due": "soon", "lines": []})
        session.add_all([old, wrong])
    await Runner(engine, queues={"default": 1, "mailers": 1, "billing": 1}).run(until_idle=True)
    async with sessions() as session:
        assert (await session.get_one(page["User"], page["user"].id)).visits == 1
        assert (await session.get_one(Job, old.id)).state == "completed"
        (error,) = (await session.get_one(Job, wrong.id)).errors
    assert error["error"] in pages.text("arguments")
