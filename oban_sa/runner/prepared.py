"""Statements as the driver takes them, compiled when they are first run, and once for all runners of a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final

from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from oban_sa.models import schema_map

_DIALECT: Final = dialect()  # type: ignore[no-untyped-call]
"""As of any engine on this driver; engines differ in how they connect, and in how they turn values that aren't ours."""


@dataclass(frozen=True, slots=True)
class Text:
    """A statement as the driver takes it; `names` are its parameters in order."""

    sql: str
    names: tuple[str, ...]
    constants: dict[str, Any]

    def values(self, given: dict[str, Any]) -> list[Any]:
        """Bring named values into the statement's order."""
        return [given[name] if name in given else self.constants[name] for name in self.names]


class Prepared:
    """A statement that is built and compiled when it is first run: a node never runs most of those that it has."""

    __slots__ = ("_make", "_text")

    def __init__(self, make: Callable[[], Text]) -> None:
        self._make = make
        self._text: Text | None = None

    @property
    def text(self) -> Text:
        """The statement, compiled."""
        if self._text is None:
            self._text = self._make()
        return self._text


@lru_cache(maxsize=2048)
def _compiled(
    schema: str, make: Executable | Callable[..., Executable], args: tuple[Any, ...], given: tuple[Any, ...]
) -> Text:
    """Build a statement and compile it, once for all runners of a process that work in one schema."""
    # An `Executable` that can't be compiled on its own does not occur here.
    compilable: Any = make if isinstance(make, Executable) else make(*args, **dict(given))
    compiled: Any = compilable.compile(
        dialect=_DIALECT, schema_translate_map=schema_map(schema) or None, render_schema_translate=True
    )
    return Text(compiled.string, tuple(compiled.positiontup or ()), dict(compiled.params))


def prepared(schema: str, make: Executable | Callable[..., Executable], *args: Any, **given: Any) -> Prepared:
    """A statement for one schema, or what `make` builds of these arguments, which have to be hashable."""
    return Prepared(partial(_compiled, schema, make, args, tuple(given.items())))
