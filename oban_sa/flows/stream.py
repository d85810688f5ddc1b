"""`deps().stream("thumbs")`: what many members have recorded, read in pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from uuid import UUID

from oban_sa.errors import DependencyNotLoaded
from oban_sa.flows.load import waited
from oban_sa.sql.dependencies import recorded_by, recorded_in
from oban_sa.wire import erlang
from oban_sa.workers.loop import has_loop

if TYPE_CHECKING:
    from sqlalchemy import TextClause

    from oban_sa.flows.dependencies import Dependency

Pair: TypeAlias = tuple[str, Any]
"""The name of a member, and what it recorded."""

After: TypeAlias = tuple[UUID, str] | int | None
"""After what the next page of a stream comes; None where it is the first one, or was the last."""


class Row(Protocol):
    """A row of an answer."""

    def __getitem__(self, name: str, /) -> Any:
        """Return the value of a column."""
        ...


Fetch: TypeAlias = "Callable[[Callable[[str], TextClause], Mapping[str, object]], Awaitable[Sequence[Row]]]"
"""Runs one of the statements of `oban_sa.sql.dependencies` and returns its rows."""

PAGE: Final = 200
"""Recorded values that `stream` reads at once."""


class Stream:
    """Pairs of a name and what was recorded, read in pages."""

    def __init__(self, whole: Dependency, fetch: Fetch | None, loop: asyncio.AbstractEventLoop | None) -> None:
        if whole.kind == "job" and not (whole.given and isinstance(whole.given[0], Mapping)):
            raise DependencyNotLoaded(
                f"{whole.name!r} is one member, and no group of them; write deps()[{whole.name!r}].result"
            )
        self._whole = whole
        self._fetch = fetch
        self._loop = loop

    async def __aiter__(self) -> AsyncIterator[Pair]:
        for pair in self._given():
            yield pair
        after: After = None
        while True:
            page, after = await self._page(after)
            for pair in page:
                yield pair
            if after is None:
                return

    def __iter__(self) -> Iterator[Pair]:
        if self._fetch is not None and has_loop():  # which would wait for itself
            raise DependencyNotLoaded(
                f"in async code a stream is read by `async for name, value in deps().stream({self._whole.name!r})`; "
                "`for` is for code in a thread"
            )
        yield from self._given()
        after: After = None
        while self._fetch is not None and self._loop is not None:
            page, after = waited(self._page(after), self._loop)
            yield from page
            if after is None:
                return

    def _given(self) -> Iterator[Pair]:
        if self._whole.given:
            yield from dict(self._whole.given[0]).items()  # type: ignore[call-overload]

    async def _page(self, after: After) -> tuple[list[Pair], After]:
        """Return some pairs, and after what the next ones come; None where there are no more."""
        whole, fetch = self._whole, self._fetch
        if fetch is None or whole.flow_id is None:
            return [], None
        if whole.kind == "group":  # whose names are known, and in another order than texts are
            first = after if isinstance(after, int) else 0
            numbers = range(first, min(first + PAGE, whole.total or 0))
            names = [f"{whole.name}/{number}" for number in numbers]
            rows = await fetch(recorded_by, {"flow": whole.flow_id, "names": names})
            found = {row["name"]: row["recorded"] for row in rows}
            page = [(name, _value(found[name])) for name in names if name in found]
            return page, numbers.stop if numbers.stop < (whole.total or 0) else None
        flow, name = after if isinstance(after, tuple) else (UUID(int=0), "")
        given = {"flow": whole.flow_id, "after_flow": flow, "after_name": name, "limit": PAGE}
        rows = await fetch(recorded_in, given)
        page = [(row["name"], _value(row["recorded"])) for row in rows]
        return page, (rows[-1]["flow_id"], rows[-1]["name"]) if len(rows) == PAGE else None


def _value(recorded: str | None) -> object:
    return None if recorded is None else erlang.decode(recorded)
