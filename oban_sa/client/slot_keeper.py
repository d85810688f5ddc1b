"""The thread that keeps the slots of a process while they are held, and runs what waits for one without a loop.

A thread, since a slot must stay held where the code that holds it blocks its event loop. It has a loop and connections
of its own, made as those of the caller's engine are; the first is opened when a slot is held for longer than
`KEEP_EVERY`, or taken without a loop. The thread ends when nothing was held for `IDLE` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID, uuid4

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.sql import ClauseElement

from oban_sa.client.driver import Driver, Opened, Rows
from oban_sa.client.transactions import Transactions
from oban_sa.describe.exceptions import describe
from oban_sa.schedule import clock
from oban_sa.sql.errors import sqlstate
from oban_sa.sql.slots import give_back, keep, take

T = TypeVar("T")

logger = logging.getLogger("oban_sa.limits")

HOLDS: Final = 30.0
"""Seconds after which a slot is free whose process died."""

KEEP_EVERY: Final = 5.0
"""Seconds between two renewals of the slots of a process; also how long one may take."""

IDLE: Final = 10.0
"""Seconds without a slot after which the thread ends and closes its connections."""

_ANOTHER_ISOLATION: Final = "25000"
"""SQLSTATE of the function where the transaction is not READ COMMITTED."""


class Line:
    """Runs the statements of slots on connections of one engine."""

    def __init__(self, engine: AsyncEngine, schema: str, holder: UUID) -> None:
        self._transactions = Transactions(engine, schema, announce=False)
        self._in_transaction = self._transactions.engine.sync_engine
        self._driver = Driver(engine.sync_engine, self._transactions.statements.sync_engine, self._in_transaction)
        self._holder = holder
        self._alone = True
        """Whether statements may commit by themselves: not where the role's isolation level is another one."""
        self._texts: dict[Callable[[], ClauseElement], tuple[str, list[str] | None]] = {}

    async def take(self, values: dict[str, object]) -> Rows:
        """Take a slot or a ticket: a row of `TAKEN`."""
        return await self._run(take, {**values, "of_holder": self._holder})

    async def keep(self, ids: list[int], holds: float) -> set[int]:
        """Keep slots for so many seconds: those that are still held."""
        rows = await self._run(keep, {"ids": ids, "holds": holds, "of_holder": self._holder})
        return {int(str(row[0])) for row in rows}

    async def give_back(self, slot: int) -> bool:
        """Give a slot or a ticket back; False where it was lost."""
        return bool(await self._run(give_back, {"slot": slot, "of_holder": self._holder}))

    async def _run(self, statement: Callable[[], ClauseElement], values: dict[str, object]) -> Rows:
        text, names = self._text(statement)
        given = tuple([values[name] for name in names]) if names else values
        try:
            async with await self._open() as opened:
                return await opened.run(text, given)
        except DBAPIError as error:
            if not self._alone or sqlstate(error) != _ANOTHER_ISOLATION:
                raise
        except Exception as error:
            # The driver's own, where it ran the statement alone.
            if not self._alone or getattr(error, "sqlstate", None) != _ANOTHER_ISOLATION:
                raise
        self._alone = False
        return await self._run(statement, values)

    async def _open(self) -> Opened:
        return await (self._driver.open() if self._alone else self._driver.open_in_transaction())

    def _text(self, statement: Callable[[], ClauseElement]) -> tuple[str, list[str] | None]:
        if (found := self._texts.get(statement)) is None:
            engine = self._in_transaction
            compiled = statement().compile(
                dialect=engine.dialect,
                schema_translate_map=engine.get_execution_options()["schema_translate_map"],
                render_schema_translate=True,
            )
            found = self._texts[statement] = str(compiled), getattr(compiled, "positiontup", None)
        return found


@dataclass(eq=False, slots=True)
class Held:
    """A slot that is held; `on_lost` is called in the keeper's thread where it is lost."""

    slot: int
    sent_at: float
    """When the statement was sent that took or kept it, by this machine's monotonic clock."""
    on_lost: Callable[[], None]
    lost: bool = field(default=False)


class Keeper:
    """Keeps the slots that are held by the process on the tables of one schema of one engine."""

    def __init__(self, engine: AsyncEngine, schema: str, ended: Callable[[], None]) -> None:
        """`ended` is called once the thread has ended."""
        self.holder = uuid4()
        """Who holds the slots: this process."""
        self._engine = engine
        self._schema = schema
        self._ended = ended
        self._held: set[Held] = set()
        self._calls = 0
        self._lock = threading.Lock()
        self._thread: _Thread | None = None

    @property
    def runs(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None

    def add(self, held: Held) -> None:
        """Keep a slot from now on."""
        with self._lock:
            self._held.add(held)
            self._start()

    def remove(self, held: Held) -> None:
        """Keep a slot no longer."""
        with self._lock:
            self._held.discard(held)

    def call(self, work: Callable[[Line], Coroutine[object, None, T]]) -> T:
        """Run `work` in the keeper's thread and return its result; where this is interrupted, that is cancelled.

        It gets what runs the statements of that thread.
        """
        with self._lock:
            self._calls += 1
            thread = self._start()
        try:
            future = asyncio.run_coroutine_threadsafe(work(thread.line), thread.loop)
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise
        finally:
            with self._lock:
                self._calls -= 1

    def close(self) -> None:
        """End the thread, unless something is held."""
        with self._lock:
            thread = self._thread
            if thread is None or self._held or self._calls:
                return
            thread.loop.call_soon_threadsafe(thread.wake.set)
        thread.join()

    def _start(self) -> _Thread:
        if self._thread is None:
            engine = _same(self._engine)
            self._thread = _Thread(engine, Line(engine, self._schema, self.holder), self._keep)
            self._thread.start()
        return self._thread

    async def _keep(self, thread: _Thread) -> None:
        idle_since = clock.monotonic()
        while True:
            try:
                async with asyncio.timeout(KEEP_EVERY if self._held else min(KEEP_EVERY, IDLE)):
                    await thread.wake.wait()
            except TimeoutError:
                pass
            try:
                await self._renew(thread.line)
            except Exception:  # the thread must not end while others rely on it
                logger.exception("slots of limits could not be kept")
            now = clock.monotonic()
            with self._lock:
                if self._held or self._calls:
                    idle_since = now
                elif thread.wake.is_set() or now - idle_since >= IDLE:
                    self._thread = None
                    break
                thread.wake.clear()
        await thread.engine.dispose()
        self._ended()

    async def _renew(self, line: Line) -> None:
        sent_at = clock.monotonic()
        with self._lock:
            held = [each for each in self._held if not each.lost]
        due = {each.slot: each for each in held if sent_at - each.sent_at >= KEEP_EVERY / 2}
        if due:
            try:
                async with asyncio.timeout(KEEP_EVERY):
                    kept = await line.keep(list(due), HOLDS)
            except Exception as error:  # tried again in a moment; meanwhile nothing is lost
                logger.debug("could not keep slots of limits: %s", describe(error))
            else:
                for slot, each in due.items():
                    if slot in kept:
                        each.sent_at = sent_at
                    else:
                        self._lose(each)
        # The database may count as free what it was not told of for `HOLDS`, so this ends before: by the next look,
        # which may be two intervals away, it would be too late.
        for each in held:
            if clock.monotonic() - each.sent_at > HOLDS - 2 * KEEP_EVERY:
                self._lose(each)

    def _lose(self, held: Held) -> None:
        with self._lock:
            if held.lost or held not in self._held:
                return  # given back meanwhile
            held.lost = True
        held.on_lost()


class _Thread(threading.Thread):
    """A thread with a loop, and an engine for it."""

    def __init__(
        self, engine: AsyncEngine, line: Line, work: Callable[[_Thread], Coroutine[object, None, None]]
    ) -> None:
        super().__init__(name="oban_sa limits", daemon=True)
        self.engine = engine
        self.line = line
        self.loop = asyncio.new_event_loop()
        self.wake = asyncio.Event()
        self._work = work

    def run(self) -> None:
        try:
            self.loop.run_until_complete(self._work(self))
        finally:
            self.loop.close()


def _same(engine: AsyncEngine) -> AsyncEngine:
    """Make an engine that connects as another one does, for a loop of its own."""
    made = create_async_engine(engine.url, pool=engine.sync_engine.pool.recreate())
    options = {name: value for name, value in engine.get_execution_options().items() if name != "isolation_level"}
    return made.execution_options(**options) if options else made
