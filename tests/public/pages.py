"""The pages of docs/ whose Python is a program: it runs in its order, and type checkers read it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support import ROOT

PAGES: Final = ("arguments", "bulk", "relations")


def text(page: str) -> str:
    """Return what a page says."""
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def pieces(page: str) -> list[str]:
    """Return the Python of a page, in pieces of which none uses tables that it declares itself."""
    found: list[str] = []
    for block in re.findall(r"^```python\n(.*?)^```$", text(page), re.MULTILINE | re.DOTALL):
        declared, within, used = block.partition("\n\n\nasync with")
        found += [declared, within + used] if "class Base(" in declared and within else [block]
    return found


async def run(page: dict[str, Any], pieces: Iterable[str], engine: AsyncEngine) -> None:
    """Run pieces one after another in one module, making the tables that they declare."""
    for number, piece in enumerate(pieces):
        pending = eval(compile(piece, f"<piece {number}>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), page)
        if inspect.isawaitable(pending):
            await pending
        if "Base" in page:
            async with engine.begin() as connection:
                await connection.run_sync(page["Base"].metadata.create_all)
