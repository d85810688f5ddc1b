"""What docs/arguments.md tells to write runs in its order, and mypy and pyright accept it."""

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

from oban_sa import Job, Runner
from tests.support import ROOT
from tests.typing.test_readme import as_module, complaints
from tests.typing.test_typing import MYPY

PAGE = (ROOT / "docs" / "arguments.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAME = "arguments_of_the_page"


async def test_the_blocks_run_in_order(
    monkeypatch: pytest.MonkeyPatch, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    module = types.ModuleType(NAME)
    monkeypatch.setitem(sys.modules, NAME, module)  # annotations look there
    page: dict[str, Any] = vars(module)
    page.update(engine=engine, sessions=sessions)
    for number, block in enumerate(BLOCKS):
        pending = eval(compile(block, f"<block {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), page)
        if inspect.isawaitable(pending):
            await pending
        if "Base" in page:
            async with engine.begin() as connection:
                await connection.run_sync(page["Base"].metadata.create_all)
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
    assert error["error"] in PAGE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "page.py").write_text(as_module(BLOCKS).replace("from shop import User, send_welcome\n", ""))
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return tmp_path


def test_mypy_accepts_the_page(folder: Path) -> None:
    assert complaints(folder, [*MYPY, "page.py"]) == ""


def test_pyright_accepts_the_page(folder: Path) -> None:
    assert complaints(folder, [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]) == ""
