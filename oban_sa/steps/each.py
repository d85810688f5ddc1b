"""Items that are gone through once, with a cursor in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from oban_sa.errors import InvalidOption
from oban_sa.schedule import clock
from oban_sa.schedule.periods import Period, seconds
from oban_sa.steps import results
from oban_sa.steps.journal import Entry, Journal, driven, on_loop

T = TypeVar("T")

CODE: Final = "each"
"""What the journal says instead of the name of a function."""


def through(
    journal: Journal,
    key: str,
    items: AsyncIterable[T] | Iterable[T],
    *,
    cursor: Callable[[T], object] | None,
    every: Period,
) -> AsyncIterator[T] | Iterator[T]:
    """Go through items; raises `InvalidOption` for what can't be gone through where the code runs."""
    place = _Place(journal, key, cursor, seconds(every))
    if isinstance(items, AsyncIterable):
        if not on_loop():
            raise InvalidOption(f"step.each({key!r}, ...) is gone through by `for`, and its items are asynchronous")
        return _on_loop(place, items)
    if on_loop():
        raise InvalidOption(
            f"step.each({key!r}, ...) runs on the loop, and takes what `async for` goes through; make the items an "
            "async generator: async def rows(after): ... yield row"
        )
    return _in_thread(place, items)


async def _on_loop(place: _Place[T], items: AsyncIterable[T]) -> AsyncIterator[T]:
    if await place.done():
        return
    async for item in items:
        yield item
        await place.passed(item)
    await place.end()


def _in_thread(place: _Place[T], items: Iterable[T]) -> Iterator[T]:
    if driven(place.done()):
        return
    for item in items:
        yield item
        driven(place.passed(item))
    driven(place.end())


class _Place(Generic[T]):
    """How far one `each` has come."""

    def __init__(self, journal: Journal, key: str, cursor: Callable[[T], object] | None, every: float) -> None:
        self._journal = journal
        self._key = key
        self._cursor = cursor
        self._every = every
        self._saved_at = clock.monotonic()
        self._value: str | None = None

    async def done(self) -> bool:
        """Whether all items were gone through before."""
        entry = await self._journal.find(self._key, CODE)
        if entry is not None:
            self._journal.use(None)
        self._value = None if entry is None else entry.value
        # Before a cursor is there that the next attempt has to know as it begins.
        await self._journal.mark()
        return entry is not None and entry.done

    async def passed(self, item: T) -> None:
        """Note that the code is through with an item."""
        self._value = results.written(item if self._cursor is None else self._cursor(item), self._key)
        now = clock.monotonic()
        if now - self._saved_at >= self._every:
            self._saved_at = now
            await self._journal.write(Entry(self._key, CODE, self._value, done=False))

    async def end(self) -> None:
        """Note that all items were gone through."""
        await self._journal.write(Entry(self._key, CODE, self._value, done=True))
