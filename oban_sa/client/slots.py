"""Limits outside of jobs: at most so many at once, or so many in a time, in all processes together."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.client import slot_keeper
from oban_sa.client.driver import Rows
from oban_sa.client.slot_keeper import Held, Keeper, Line
from oban_sa.client.slot_limit import Answer, Limit, lost, reached
from oban_sa.describe.exceptions import describe as describe_error
from oban_sa.errors import InvalidOption
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.workers.loop import has_loop

T = TypeVar("T")

logger = logging.getLogger("oban_sa.limits")

WAITS: Final = 5.0
"""Seconds for which the place of one that waits is kept without a word of it."""

PAUSES: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.25)
"""Seconds between two tries of one that waits and is next; of one that is further back the last of them."""


class Slot:
    """A slot of a limit that is held; `lost` is true where it is no longer, so that others may have it."""

    def __init__(self, limit: Limit, held: Held | None) -> None:
        self.name = limit.name
        self.key = limit.key
        self._held = held

    @property
    def lost(self) -> bool:
        """Whether it was lost, since this process or its connection stood still for too long."""
        return self._held is not None and self._held.lost

    def __repr__(self) -> str:
        return f"<Slot name={self.name!r} key={self.key!r}{' lost' if self.lost else ''}>"


class _Queue:
    """Those of one loop that wait for the same slots: one after another asks, and is woken when one is given back."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.freed = asyncio.Event()
        self.members = 0


class Slots:
    """Takes and gives back the slots of a process, on the tables of one schema of one engine."""

    def __init__(self, engine: AsyncEngine, schema: str, ended: Callable[[], None]) -> None:
        """`ended` is called once the thread that keeps slots has ended."""
        self.keeper = Keeper(engine, schema, ended)
        self.line = Line(engine, schema, self.keeper.holder)
        """Statements on the caller's loop and engine."""
        self.users = 0
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Queue]] = WeakKeyDictionary()
        self._ending: set[asyncio.Task[object]] = set()

    async def acquire(self, limit: Limit, line: Line, on_lost: Callable[[], None]) -> Held | None:
        """Take a slot, and keep it; None where there is only a rate, so that nothing is held.

        Raises `LimitReached`.
        """
        if limit.wait == 0:
            answer, sent_at = await self._ask(limit, line)
        else:
            answer, sent_at = await self._wait(limit, line)
        if not answer.granted:
            raise reached(limit, answer)
        if answer.slot is None:
            return None
        held = Held(answer.slot, sent_at, on_lost)
        self.keeper.add(held)
        return held

    async def release(self, limit: Limit, held: Held, line: Line) -> bool:
        """Give a slot back: whether it was held until now."""
        self.keeper.remove(held)
        return await self._to_the_end(self._give_back(limit, line, held.slot)) and not held.lost

    async def _wait(self, limit: Limit, line: Line) -> tuple[Answer, float]:
        until = None if limit.wait is None else clock.monotonic() + limit.wait
        queues = self._queues.setdefault(asyncio.get_running_loop(), {})
        place = (limit.name, limit.key)
        queue = queues.setdefault(place, _Queue())
        queue.members += 1
        try:
            try:
                async with asyncio.timeout(limit.wait):
                    await queue.turn.acquire()
            except TimeoutError:
                return await self._ask(limit, line)
            try:
                return await self._in_turn(limit, line, queue, until)
            finally:
                queue.turn.release()
        finally:
            queue.members -= 1
            if not queue.members:
                queues.pop(place, None)

    async def _in_turn(self, limit: Limit, line: Line, queue: _Queue, until: float | None) -> tuple[Answer, float]:
        ticket: int | None = None
        tries = 0
        try:
            while True:
                left = None if until is None else until - clock.monotonic()
                last = left is not None and left <= 0
                queue.freed.clear()
                answer, sent_at = await self._ask(limit, line, ticket=ticket, waits=0 if last else WAITS)
                ticket = answer.slot
                if answer.granted or last:
                    ticket = None
                    return answer, sent_at
                pause = _pause(limit, answer, tries) if left is None else min(_pause(limit, answer, tries), left)
                tries = tries + 1 if _is_next(limit, answer) else 0
                try:
                    async with asyncio.timeout(pause):
                        await queue.freed.wait()
                except TimeoutError:
                    pass
        finally:
            if ticket is not None:
                await self._to_the_end(self._give_back(limit, line, ticket))

    async def _ask(
        self, limit: Limit, line: Line, *, ticket: int | None = None, waits: float = 0
    ) -> tuple[Answer, float]:
        sent_at = clock.monotonic()
        values = {**limit.parameters(), "ticket": ticket, "waits": waits}
        asking = asyncio.ensure_future(line.take(values))
        try:
            [row] = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The statement is committed all the same, unless it fails.
            await self._to_the_end(self._undo(limit, line, asking))
            raise
        return Answer.of(row), sent_at

    async def _undo(self, limit: Limit, line: Line, asking: asyncio.Future[Rows]) -> None:
        try:
            [row] = await asking
        except Exception:
            return
        if row[0] is not None:
            await self._give_back(limit, line, int(str(row[0])))

    async def _give_back(self, limit: Limit, line: Line, slot: int) -> bool:
        try:
            return await line.give_back(slot)
        except Exception as error:
            # What was done within it is done, and the slot is free when it expires.
            logger.warning(
                "a slot of %s could not be given back (%s); it is free in %s",
                *(limit, describe_error(error), describe(slot_keeper.HOLDS)),
            )
            return True
        finally:
            queue = self._queues.get(asyncio.get_running_loop(), {}).get((limit.name, limit.key))
            if queue is not None:
                queue.freed.set()

    async def _to_the_end(self, work: Awaitable[T]) -> T:
        """Await work that goes on where this is cancelled."""
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return await asyncio.shield(task)


class _Block:
    """A block of code of one task, which is interrupted where its slot is lost."""

    def __init__(self, limit: Limit, task: asyncio.Task[object] | None) -> None:
        self._limit = limit
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._cancelling = 0
        self._inside = False
        self._interrupted = False

    def lost(self) -> None:
        """Interrupt it; may be called from any thread."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._interrupt)

    def enter(self, held: Held | None) -> None:
        """Begin; where the slot is lost by now, it is interrupted as soon as it awaits."""
        self._inside = True
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        if held is not None and held.lost:
            self.lost()

    def leave(self) -> bool:
        """End: whether it was interrupted by this, and by nothing else."""
        self._inside = False
        return self._interrupted and self._task is not None and self._task.uncancel() <= self._cancelling

    def _interrupt(self) -> None:
        if self._inside and not self._interrupted and self._task is not None:
            self._interrupted = True
            self._task.cancel(f"the slot of {self._limit} was lost")


@asynccontextmanager
async def limited(engine: AsyncEngine, schema: str, limit: Limit) -> AsyncGenerator[Slot]:
    """Run a block of code within a limit; raises what `Oban.limit` does."""
    with _joined(engine, schema) as slots:
        block = _Block(limit, asyncio.current_task())
        held = await slots.acquire(limit, slots.line, block.lost)
        block.enter(held)
        try:
            yield Slot(limit, held)
        except BaseException as error:
            ours = block.leave() and isinstance(error, asyncio.CancelledError)
            if held is not None and not await slots.release(limit, held, slots.line):
                _warn(limit)
            if ours:
                raise lost(limit) from error
            raise
        block.leave()
        if held is not None and not await slots.release(limit, held, slots.line):
            raise lost(limit)


@contextmanager
def limited_sync(engine: AsyncEngine, schema: str, limit: Limit) -> Generator[Slot]:
    """Run a block of synchronous code within a limit; raises what `Oban.limit_sync` does."""
    if has_loop():
        raise InvalidOption(
            f"limit_sync({limit.name!r}) would block the event loop that runs here; write async with oban.limit(...), "
            "or call this code by asyncio.to_thread()"
        )
    with _joined(engine, schema) as slots:
        keeper = slots.keeper
        held = keeper.call(lambda line: slots.acquire(limit, line, lambda: None))

        def release() -> bool:
            return True if held is None else keeper.call(partial(slots.release, limit, held))

        try:
            yield Slot(limit, held)
        except BaseException:
            if not release():
                _warn(limit)
            raise
        if not release():
            raise lost(limit)


class _Known:
    """The `Slots` of this process; a process that was forked from it has none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.slots: dict[tuple[Engine, str], Slots] = {}
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self.lock = threading.Lock()  # a thread that is not here may have held it
        self.slots = {}


_known: Final = _Known()


@contextmanager
def _joined(engine: AsyncEngine, schema: str) -> Generator[Slots]:
    """Give what takes the slots of an engine and a schema in this process, one for all of its callers.

    It is forgotten with its last user and its thread, which ends by itself.
    """
    place = (engine.sync_engine, schema)
    with _known.lock:
        if (found := _known.slots.get(place)) is None:
            found = _known.slots[place] = Slots(engine, schema, lambda: _forget(place))
        found.users += 1
    try:
        yield found
    finally:
        with _known.lock:
            found.users -= 1
        _forget(place)


def end_idle() -> None:
    """End the threads that keep nothing now, and close their connections."""
    for each in list(_known.slots.values()):
        each.keeper.close()


def in_use() -> bool:
    """Whether anything is held, waited for or kept in this process."""
    return bool(_known.slots)


def _forget(place: tuple[Engine, str]) -> None:
    with _known.lock:
        found = _known.slots.get(place)
        if found is not None and not found.users and not found.keeper.runs:
            del _known.slots[place]


def _pause(limit: Limit, answer: Answer, tries: int) -> float:
    """Seconds until the next try, after so many as the next one."""
    if answer.rate_in is not None:
        return min(max(answer.rate_in, 0.001), WAITS / 3)
    return PAUSES[min(tries, len(PAUSES) - 1)] if _is_next(limit, answer) else PAUSES[-1]


def _is_next(limit: Limit, answer: Answer) -> bool:
    return limit.at_most is None or answer.ahead < limit.at_most


def _warn(limit: Limit) -> None:
    logger.warning("the slot of %s was lost while it was held", limit)


__all__ = ["Limit", "Slot", "limited", "limited_sync"]
