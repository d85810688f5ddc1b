"""mypy and pyright accept what the README and pages of docs/ tell people to write; each reads all of it at once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.public import pages, readme
from tests.support import ROOT
from tests.typing.test_typing import MYPY

GIVEN = """
from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

engine = create_async_engine("postgresql+asyncpg://")
sessions = async_sessionmaker(engine, expire_on_commit=False)
"""
SHOP = "from shop import User, send_welcome\n"
IMPORT = r"(?m)^from \S+ import .*\n"


def as_module(pieces: list[str], *, given: str = GIVEN) -> str:
    """Make one module of pieces that may await, where a notebook could hold them."""
    module = given
    for number, piece in enumerate(pieces):
        piece = piece.removeprefix("from __future__ import annotations\n")
        if re.search(r"(?m)^(async with|await) ", piece):
            imports = "".join(re.findall(IMPORT, piece))
            body = textwrap.indent(re.sub(IMPORT, "", piece), "    ")
            module += f"\n{imports}\nasync def piece_{number}() -> None:\n{body}\n"
        else:
            module += f"\n{piece}"
    # Tests are seldom annotated, and the README's are not.
    return module.replace("(session):", "(session: AsyncSession) -> None:").replace("13():", "13() -> None:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pieces: list[str] = []
    for block in readme.blocks():
        if block.language != "python" or not block.runs:
            continue
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
        else:
            pieces.append(block.text)
    assert len(pieces) >= 7
    (tmp_path / "pieces.py").write_text(as_module(pieces, given=GIVEN + SHOP))
    for page in pages.PAGES:
        (tmp_path / f"{page}.py").write_text(as_module(pages.pieces(page)))
    settings = {"typeCheckingMode": "standard", "pythonVersion": "3.11", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    return tmp_path


def complaints(folder: Path, command: list[str]) -> str:
    env = os.environ | {"MYPYPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_mypy_accepts_what_the_pages_say(folder: Path) -> None:
    assert complaints(folder, [*MYPY, *sorted(path.name for path in folder.glob("*.py"))]) == ""


def test_pyright_accepts_what_the_pages_say(folder: Path) -> None:
    assert complaints(folder, [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]) == ""
