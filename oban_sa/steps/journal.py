"""The journal of one attempt: what earlier attempts came to, and what this one adds.

Its methods are coroutines, for code of both kinds. On the loop they are awaited. In a thread `driven` runs them: what
they await of the tables is done on the loop while the thread waits, so that they come to their end without a pause.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import re
from collections import Counter, deque
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Final, NamedTuple, Protocol, TypeVar

from greenlet import getcurrent  # type: ignore[import-untyped, unused-ignore]
from sqlalchemy.util import await_only

from oban_sa import telemetry
from oban_sa.errors import StepChanged
from oban_sa.jobs import values
from oban_sa.jobs.durable import PROGRESS, checked_name
from oban_sa.models import Job
from oban_sa.schedule import clock
from oban_sa.telemetry import JobEvent
from oban_sa.telemetry.handlers import listeners
from oban_sa.workers.loop import awaited, has_loop

T = TypeVar("T")


class Entry(NamedTuple):
    """One entry: `value` is JSON as text; `seconds` are left of a sleep or a wait that is over at `ms`."""

    name: str
    code: str
    value: str | None = None
    done: bool = True
    seconds: float | None = None
    ms: int | None = None
    at: float = 0.0
    """When the database said so, by this machine's monotonic clock."""

    @property
    def left(self) -> float | None:
        """How many seconds are left by now."""
        return None if self.seconds is None else self.seconds - (clock.monotonic() - self.at)

    @property
    def plain(self) -> object:
        """The value, as plain JSON."""
        return None if self.value is None else values.from_json(self.value)


class Tables(Protocol):
    """Where the journal of an attempt is kept."""

    async def read(self) -> Iterable[Entry]:
        """Return all entries of the job."""
        ...

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Write an entry, or return the one of that name that is there and done.

        `delay` is how many seconds from now on it is over. Raises `AttemptLost` where the attempt has lost its job.
        """
        ...

    async def wait(self, key: str, name: str, *, within: float | None) -> Entry:
        """Take the oldest signal of a name, or say that the job waits for one; raises `AttemptLost`."""
        ...

    async def mark(self) -> None:
        """Have the next attempt read the journal before its code begins; raises `AttemptLost`."""
        ...

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        """Return the result of something that is awaited on the loop, to a thread that waits for it."""
        ...


class Journal:
    """What the steps of one attempt are asked for and answered with."""

    def __init__(
        self,
        tables: Tables,
        job: Job,
        *,
        source: telemetry.Source,
        marked: bool,
        fresh: bool,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """`marked` says that the job has a journal by its meta; `fresh`, that it has none: no attempt came before.

        `loop` is the one on which the tables are; without it they are on any.
        """
        self.tables = tables
        self._loop = loop
        self._made: deque[tuple[str, Coroutine[object, object, object]]] = deque()
        """The coroutines that the code was given, from the oldest on that is not under way."""
        self.job = job
        self.source = source
        self.marked = marked
        self.wrote = False
        """Whether this attempt has written something."""
        self._known: dict[str, Entry] = {}
        self._asked: Counter[str] = Counter()
        self._used: set[str] | None = set()
        self._unread = not fresh
        self._reading: asyncio.Task[None] | None = None
        self.told_at = clock.monotonic() if marked else -math.inf
        """When the progress was written last, by this machine's monotonic clock; or when a later attempt began."""
        self.untold: Entry | None = None
        """The progress that was said last, where it is not written."""
        self.began_empty = True
        """Whether no earlier attempt has written anything; of one that was not read yet that is not known."""

    async def find(self, key: str, code: str, *, strict: bool = False) -> Entry | None:
        """Return what is known under a key; None where nothing is.

        An entry of other code is told of by an event; where `strict`, or where it can't be read as this one, it raises
        `StepChanged`.
        """
        await self.read()
        if (entry := self._known.get(key)) is None:
            return None
        if entry.code not in (code, ""):  # a test may give the result of any code
            if strict or entry.code in KINDS or code in KINDS:
                raise StepChanged(
                    f"the journal of job {self.job.id} has {key!r} as {_named(entry.code)}, and this is {_named(code)}"
                    "; give what means something else a name of its own"
                )
            self.emit(telemetry.StepChanged, step=key, recorded=entry.code, called=code)
        return entry

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Journal something and return what stands there now: also where another attempt has come before."""
        self.wrote = True  # also where the attempt is cut short before it knows
        written = await self.wait(self.tables.write(entry, delay=delay))
        self.add(written)
        return written

    async def tell(self, entry: Entry | None = None) -> None:
        """Write a progress, which no later attempt asks for: the one that was said last, where it is not written."""
        said, self.untold = entry or self.untold, None
        if said is not None:
            self.told_at = clock.monotonic()
            await self.wait(self.tables.write(said))

    def add(self, entry: Entry) -> None:
        """Take note of an entry that was written."""
        self.wrote = True
        self._known[entry.name] = entry

    async def read(self) -> None:
        """Read the entries, unless that was done before, or there can't be any."""
        while self._unread:
            if _on_loop():
                # Steps that run at the same time wait for the same answer.
                if self._reading is None or self._reading.done():
                    self._reading = asyncio.ensure_future(self._read())
                await asyncio.shield(self._reading)
            else:
                await self._read()

    async def _read(self) -> None:
        self.begin(await self.wait(self.tables.read()))

    def begin(self, entries: Iterable[Entry]) -> None:
        """Take note of all entries that were there before this attempt."""
        self._known = {entry.name: entry for entry in entries} | self._known
        self.began_empty = not self._known.keys() - {PROGRESS}
        self._unread = False

    @property
    def entries(self) -> tuple[Entry, ...] | None:
        """All entries; None while those of earlier attempts were not read."""
        return None if self._unread else tuple(self._known.values())

    async def mark(self) -> None:
        """Have the next attempt read the journal before its code begins, so that `cursor` need not wait for it."""
        if not self.marked:
            await self.wait(self.tables.mark())
            self.marked = True

    def emit(self, event: type[JobEvent], **facts: object) -> None:
        """Tell of something that happened to the job."""
        if listeners[event]:
            telemetry.emit(event.of(self.source, self.job, **facts))

    def known(self, key: str) -> Entry | None:
        """Return what is known under a key without asking the database."""
        self.use((key,))
        return self._known.get(key)

    def key(self, name: str) -> str:
        """Return the key of the next use of a name: the name, and from the second on a number; raises InvalidOption."""
        name = checked_name(name, "a step", "charge")
        self._asked[name] += 1
        count = self._asked[name]
        key = name if count == 1 else f"{name}#{count}"
        self.use((key,))
        return key

    @property
    def used(self) -> frozenset[str] | None:
        """The keys that the code has asked for; None where it did not come to all that earlier attempts have."""
        return None if self._used is None else frozenset(self._used)

    def use(self, keys: Iterable[str] | None) -> None:
        """Note that the code has asked for keys; None that it went on behind items, whose steps it does not ask for."""
        if keys is None:
            self._used = None
        elif self._used is not None:
            self._used.update(keys)

    @property
    def unused(self) -> list[str]:
        """Entries that the code has not asked for, as where it was changed meanwhile; none where that can't be told."""
        return [] if self._used is None else sorted(self._known.keys() - self._used - {PROGRESS})

    def next_key(self, name: str) -> str:
        """Return the key that the next use of a name will have; raises InvalidOption."""
        name = checked_name(name, "a step", "charge")
        count = self._asked[name] + 1
        return name if count == 1 else f"{name}#{count}"

    def give(self, what: str, coroutine: Coroutine[object, object, T]) -> Coroutine[object, object, T]:
        """Remember what the code is to await."""
        made = self._made
        while made and not _is_unawaited(made[0][1]):
            made.popleft()
        made.append((what, coroutine))
        return coroutine

    def refuse_unawaited(self) -> None:
        """Raise `TypeError` where the code, which is done, has not awaited what it was given: that is not done."""
        left = [(what, each) for what, each in self._made if _is_unawaited(each)]
        self._made.clear()
        for _, coroutine in left:
            coroutine.close()
        if left:
            what = left[0][0]
            raise TypeError(f"{what} was not awaited, so it did nothing; write: await {what}")

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Await something of the tables: in a thread, and on another loop, by having it done on theirs."""
        if _on_loop():
            if self._loop is None or asyncio.get_running_loop() is self._loop:
                return await awaitable
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(awaited(awaitable), self._loop))
        return await_only(awaitable) if has_loop() else self.tables.in_thread(awaitable)


def _is_unawaited(coroutine: Coroutine[object, object, object]) -> bool:
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def driven(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine that never pauses to its end, in a thread without a loop."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a durable step in a thread has awaited something, which has no loop here")


def _on_loop() -> bool:
    # Synchronous code that SQLAlchemy runs on the loop waits like code in a thread.
    return has_loop() and not getattr(getcurrent(), "__sqlalchemy_greenlet_provider__", False)


on_loop = _on_loop
"""Whether this is code on a loop, and not in a thread."""

KINDS: Final = frozenset({"sleep", "wait_for", "version", "each"})
"""What is no function: the entries are written in ways of their own."""


def name_of(key: str) -> str:
    """Return the name of a step by its key, as its code has it."""
    return re.sub(r"#\d+$", "", key)


def _named(code: str) -> str:
    return f"a {code}" if code in KINDS else f"the result of {code}()"
