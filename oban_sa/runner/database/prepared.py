"""Statements as the driver takes them, compiled when they are first run, and once for all runners of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache, partial
from typing import Final, NamedTuple, cast

from sqlalchemy import ClauseElement, Executable
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.compiler import SQLCompiler

from oban_sa.models import schema_map

_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]
"""As of any engine on this driver; engines differ only in how they connect and convert other types of values."""


class Text(NamedTuple):
    """A statement as the driver takes it; `names` are its parameters in order, `constants` the values of some."""

    sql: str
    names: tuple[str, ...]
    constants: dict[str, object]


class Prepared:
    """A statement that is built and compiled when it is first run: a node never runs most of its statements."""

    def __init__(self, make: Callable[[], Text]) -> None:
        self._make = make

    @cached_property
    def text(self) -> Text:
        """The statement, compiled."""
        return self._make()


async def compiled(statements: Iterable[Prepared]) -> None:
    """Compile statements before they are run; before each the loop does what else there is to do."""
    for each in statements:
        await asyncio.sleep(0)
        each.text  # noqa: B018 - it is kept


@lru_cache(maxsize=2048)
def _compiled(
    schema: str,
    make: Executable | Callable[..., Executable],
    args: tuple[object, ...],
    given: tuple[tuple[str, object], ...],
) -> Text:
    """Build a statement and compile it, once for all runners of a process that work in one schema."""
    # An `Executable` that can't be compiled on its own does not occur here.
    made = cast("ClauseElement", make if isinstance(make, Executable) else make(*args, **dict(given)))
    compiled = cast(
        "SQLCompiler",
        made.compile(dialect=_DIALECT, schema_translate_map=schema_map(schema) or None, render_schema_translate=True),
    )
    return Text(compiled.string, tuple(compiled.positiontup or ()), dict(compiled.params))


def prepared(schema: str, make: Executable | Callable[..., Executable], *args: object, **given: object) -> Prepared:
    """A statement for one schema, or what `make` builds of these arguments, which have to be hashable."""
    return Prepared(partial(_compiled, schema, make, args, tuple(given.items())))
