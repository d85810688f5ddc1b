"""Runs pieces of Python one after another in one module, as in a notebook.

    python -m tests.public.snippets FILE      # a JSON list of texts

`engine`, `sessions`, and all that the shop of the README defines are there from the beginning.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from oban_sa import Runner
from tests.public.programs import execute


async def run(pieces: list[str]) -> None:
    module: Any = types.ModuleType("notebook")
    sys.modules["notebook"] = module  # dataclasses and annotations look there
    shop = __import__("shop")
    names = vars(module)
    names.update({name: value for name, value in vars(shop).items() if not name.startswith("_")})
    engine = create_async_engine(make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+asyncpg"))
    names["engine"] = engine
    names["sessions"] = sessions = async_sessionmaker(engine, expire_on_commit=False)
    for number, piece in enumerate(pieces):
        before = set(names)
        await execute(piece, names, of=f"piece {number}: {piece.splitlines()[0]}")
        for name in set(names) - before:
            if name.startswith("test_"):
                async with Runner(engine, queues={"mailers": 5}) as runner:
                    await runner.until_idle()
                async with sessions() as session:
                    await names[name](session)
        print(f"ran piece {number}", flush=True)
    await engine.dispose()


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
