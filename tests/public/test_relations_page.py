"""What docs/relations.md tells to write runs in its order, and mypy and pyright accept it."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job
from tests.support import ROOT
from tests.typing.test_readme import as_module, complaints
from tests.typing.test_typing import MYPY

PAGE = (ROOT / "docs" / "relations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAME = "relations_of_the_page"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, sessions: async_sessionmaker[AsyncSession]) -> dict[str, Any]:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    vars(module)["sessions"] = sessions
    return vars(module)


async def test_the_blocks_run_in_order(page: dict[str, Any], engine: AsyncEngine) -> None:
    for number, block in enumerate(BLOCKS):
        pending = eval(compile(block, f"<block {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), page)
        if inspect.isawaitable(pending):
            await pending
        if number == 0:
            async with engine.begin() as connection:
                await connection.run_sync(page["Base"].metadata.create_all)
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written = as_module([BLOCKS[0].removeprefix("from __future__ import annotations\n"), *BLOCKS[1:]])
    (tmp_path / "page.py").write_text(written.replace("from shop import User, send_welcome\n", ""))
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return tmp_path


def test_mypy_accepts_the_page(folder: Path) -> None:
    assert complaints(folder, [*MYPY, "page.py"]) == ""


def test_pyright_accepts_the_page(folder: Path) -> None:
    assert complaints(folder, [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]) == ""
