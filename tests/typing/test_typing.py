"""mypy and pyright agree with `accepted.py`, with `rejected.py`, where every error is expected, and with the pages.

An ignored error that a checker would not report is an error itself, so none of the files can stop being read unnoticed.
The pages are the README and those of docs/. A checker reads everything in one run, since SQLAlchemy takes it longest.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.public import pages, readme
from tests.support import ROOT

PROMISES = "promises"
"""The folder for `accepted.py` and `rejected.py`."""

# A checker's own configuration, and not the project's, so that the outcome is what users see.
MYPY = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--warn-unused-ignores"]
PYRIGHT = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]

PYRIGHT_CONFIG = {
    "typeCheckingMode": "standard",
    "pythonVersion": "3.11",
    "extraPaths": [str(ROOT)],
    "strict": [PROMISES],
    "executionEnvironments": [
        {
            "root": PROMISES,
            "extraPaths": [str(ROOT)],
            "enableTypeIgnoreComments": False,
            "reportUnnecessaryTypeIgnoreComment": "error",
        },
        {"root": "."},
    ],
}

GIVEN = """
from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

engine = create_async_engine("postgresql+asyncpg://")
sessions = async_sessionmaker(engine, expire_on_commit=False)
"""
SHOP = "from shop import User, send_welcome\n"
AWAITS = re.compile(r"(?m)^(?:(?:\w+ = )?(?:async with|await)|for .* in await|async for|assert await) ")
IMPORT = r"(?m)^from \S+ import .*\n"


def as_module(pieces: list[str], *, given: str = GIVEN) -> str:
    """Make one module of pieces that may await, where a notebook could hold them.

    One that awaits becomes a function; so does one that uses what only a function has defined, the same function.
    """
    parts, functions = [given], dict[int, set[str]]()
    for number, piece in enumerate(pieces):
        piece = piece.removeprefix("from __future__ import annotations\n")
        tree = compile(piece, "<piece>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names = [each for each in ast.walk(tree) if isinstance(each, ast.Name)]
        used = {each.id for each in names if isinstance(each.ctx, ast.Load)}
        made = {each.id for each in names if isinstance(each.ctx, ast.Store)}
        made |= {
            each.name for each in tree.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        }
        within = next((place for place, known in reversed(functions.items()) if known & (used - made)), None)
        imports = "".join(re.findall(IMPORT, piece))
        body = textwrap.indent(re.sub(IMPORT, "", piece), "    ")
        if within is not None:
            functions[within] |= made
            parts[within] += f"\n{textwrap.indent(imports, '    ')}{body}"
        elif AWAITS.search(piece):
            functions[len(parts)] = made
            parts.append(f"\n{imports}\nasync def piece_{number}() -> None:\n{body}\n")
        else:
            parts.append(f"\n{piece}")
    # Tests are seldom annotated, and the README's are not.
    module = "".join(parts)
    return module.replace("(session):", "(session: AsyncSession) -> None:").replace("13():", "13() -> None:")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Everything that is checked, with pyright's configuration."""
    (tmp_path / PROMISES).mkdir()
    for name in ("accepted.py", "rejected.py"):
        shutil.copy(Path(__file__).with_name(name), tmp_path / PROMISES)
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
    for page in pages.PROGRAMS:
        (tmp_path / f"page_{Path(page).stem}.py").write_text(as_module(pages.pieces(page)))
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT_CONFIG))
    return tmp_path


def complaints(folder: Path, command: list[str]) -> str:
    env = os.environ | {"MYPYPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_mypy_accepts_and_rejects_what_is_promised_and_accepts_what_the_pages_say(folder: Path) -> None:
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.py"))
    assert complaints(folder, [*MYPY, *files]) == ""


def test_pyright_accepts_and_rejects_what_is_promised_and_accepts_what_the_pages_say(folder: Path) -> None:
    assert complaints(folder, PYRIGHT) == ""
