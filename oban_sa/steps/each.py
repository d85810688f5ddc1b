"""Items that are gone through once, with a cursor in the journal."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Final, Generic, TypeVar

from oban_sa.describe import callables
from oban_sa.errors import InvalidArguments, InvalidOption, articled, shown
from oban_sa.schedule import clock
from oban_sa.schedule.periods import Period, span
from oban_sa.steps import results
from oban_sa.steps.journal import Entry, Journal, driven, name_of, on_loop

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
    name = name_of(key)
    if cursor is not None and not callable(cursor):  # pyright: ignore[reportUnnecessaryComparison]
        raise InvalidOption(
            f"cursor of step.each({name!r}, ...) is a function of an item, not {shown(cursor)}; "
            "write cursor=lambda item: item.id"
        )
    if callables.yields(items):
        code = callables.named(items)
        raise InvalidOption(
            f"step.each({name!r}, ...) takes what {code}() yields; write step.each({name!r}, {code}(...))"
        )
    place = _Place(journal, key, cursor, span(every, f"every of step.each({name!r}, ...)"))
    if isinstance(items, AsyncIterable):
        if not on_loop():
            raise InvalidOption(
                f"step.each({name!r}, ...) is gone through by `for` in a `def`, and its items are asynchronous; "
                "make them a generator: def rows(after): ... yield row"
            )
        return _on_loop(place, items)
    if on_loop():
        raise InvalidOption(
            f"step.each({name!r}, ...) runs on the loop, and takes what `async for` goes through; make the items an "
            "async generator: async def rows(after): ... yield row"
        )
    if not isinstance(items, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] - it may come from anywhere
        raise InvalidOption(
            f"step.each({name!r}, ...) goes through items, as of a list or a generator, not {shown(items)}"
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
        self._value = self._written(item)
        now = clock.monotonic()
        if now - self._saved_at >= self._every:
            self._saved_at = now
            await self._journal.write(Entry(self._key, CODE, self._value, done=False))

    def _written(self, item: T) -> str:
        where = f"cursor of step.each({name_of(self._key)!r}, ...)"
        if self._cursor is not None:
            return results.written(self._cursor(item), where)
        try:
            return results.written(item, where)
        except InvalidArguments as error:
            raise InvalidArguments(
                f"the {where} is its item, {articled(type(item).__name__)}, which is no JSON; "
                "say what of it is: cursor=lambda item: item.id",
                path=error.path,
            ) from error

    async def end(self) -> None:
        """Note that all items were gone through."""
        await self._journal.write(Entry(self._key, CODE, self._value, done=True))
