"""What tests of real processes share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT


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
