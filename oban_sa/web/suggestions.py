"""What the search box suggests: the words of the query language, states, and the queues and workers that there are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.client import Oban
from oban_sa.client.query import FIELDS, quoted
from oban_sa.client.read import read_session
from oban_sa.describe import printable
from oban_sa.jobs.states import JobState
from oban_sa.schedule import clock
from oban_sa.sql.suggestions import workers
from oban_sa.web.access import Access

KEPT_FOR: Final = 300.0
"""Seconds after which workers are looked for again."""
MOST: Final = 200
"""Words of a kind that a page has."""
_LONGEST: Final = 200

_PATHS: Final = ("args", "meta")


@dataclass(slots=True)
class Suggestions:
    """The words of one instance; those that come from the tables are read once in `KEPT_FOR` for all visitors."""

    reader: Oban
    _workers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    _read_at: float | None = None
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def words(self, access: Access, queues: Iterable[str]) -> list[str]:
        """Return the words for a visitor, of whom `queues` are those of the page; none that it may not see."""
        hidden = {*(() if access.see_args else _PATHS), *(() if access.see_errors else ("error",))}
        words = [f"{each}." if each in _PATHS else f"{each}:" for each in FIELDS if each not in hidden]
        words += [f"state:{state}" for state in JobState]
        words += _named("queue", (name for name in queues if access.sees(name)))
        # Workers are searched by their last part, too.
        seen = (worker.rpartition(".")[2] for worker, queue in await self._known() if access.sees(queue))
        return words + _named("worker", seen)

    async def _known(self) -> list[tuple[str, str]]:
        async with self._lock:
            if self._read_at is None or clock.monotonic() - self._read_at > KEPT_FOR:
                async with read_session(self.reader) as session:
                    self._workers = [(row.worker, row.queue) for row in await _rows(session)]
                self._read_at = clock.monotonic()
        return self._workers


async def _rows(session: AsyncSession) -> Iterable[Row[tuple[str, str]]]:
    return (await session.execute(workers())).all()


def _named(kind: str, names: Iterable[str]) -> list[str]:
    fit = [name for name in dict.fromkeys(names) if name and len(name) <= _LONGEST and printable.line(name) == name]
    return [f"{kind}:{quoted(name)}" for name in fit[:MOST]]
