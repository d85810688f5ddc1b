"""Keys that the database makes are those that Python makes."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import cast, func, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.jobs import values
from oban_sa.jobs.keys import Paths
from oban_sa.sql.keys import inside, key_of

VALUES: list[Any] = [
    "x", "", "ü\"\\\n\r\t\b\f\x01\x1f\x7f/", "x" * 200, "x" * 201, "ü" * 500, 7, -(2**60), True, False, None,
]  # fmt: skip


@pytest.mark.parametrize("given", ["args.a", ("args.a", "worker"), ("args.b.c", "args.a")])
async def test_both_make_the_same_key(driven: AsyncEngine, given: Any) -> None:
    paths = Paths.read(given, what="partition")

    def made(args: dict[str, Any]) -> Any:
        whole = cast(literal(values.dumps(args)), JSONB)

        def part(path: tuple[str, ...]) -> Any:
            return inside(whole, path[1:]) if path[0] == "args" else func.to_jsonb("app.Call")

        return key_of(paths, part)

    every = [{"a": value, "b": {"c": value}} for value in VALUES]
    async with driven.connect() as connection:
        row = (await connection.execute(select(*(made(args).label(f"k{n}") for n, args in enumerate(every))))).one()
    assert list(row) == [paths.key("app.Call", args, {}, what="partition") for args in every]
