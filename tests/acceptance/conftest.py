"""What tests of real processes share."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support import ROOT


@pytest.fixture
async def engine_of_test(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: Any, tmp_path: Path) -> dict[str, str]:
    """The environment in which a runner has this event loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
        return {}
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "uvloop.py").write_text("raise ImportError")
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
