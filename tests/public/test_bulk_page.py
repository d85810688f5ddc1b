"""What docs/bulk.md tells to write runs in its order, and mypy accepts it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job
from tests.support import ROOT
from tests.typing.test_readme import as_module, complaints
from tests.typing.test_typing import MYPY

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "bulk.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
NAME = "bulk_of_the_page"
# The first ends with what needs the tables that it declares.
DECLARED, STAGED = BLOCKS[0].split("\n\n\nasync with", 1)
PIECES = [DECLARED, "async with" + STAGED, *BLOCKS[1:]]


async def test_the_blocks_run_in_order(
    monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    page: dict[str, Any] = vars(module)
    page.update(engine=engine, sessions=sessions)
    for number, piece in enumerate(PIECES):
        pending = eval(compile(piece, f"<piece {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), page)
        if inspect.isawaitable(pending):
            await pending
        if number == 0:
            async with engine.begin() as connection:
                await connection.run_sync(page["Base"].metadata.create_all)
    async with sessions() as session:
        assert await session.scalar(select(func.count()).select_from(Job)) == 12_000
        assert page["count"] == 1_000


def test_mypy_accepts_the_page(tmp_path: Path) -> None:
    written = as_module([PIECES[0].removeprefix("from __future__ import annotations\n"), *PIECES[1:]])
    (tmp_path / "page.py").write_text(written.replace("from shop import User, send_welcome\n", ""))
    assert complaints(tmp_path, [*MYPY, "page.py"]) == ""
