"""What `Oban` does to wait for a job and get what it recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from inspect import isawaitable
from typing import Any, Final, Protocol, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import object_session

from oban_sa.client.enqueue import Enqueue
from oban_sa.client.progress import Progress, progress_of
from oban_sa.client.transactions import Transactions, Work
from oban_sa.errors import (
    InvalidJob,
    InvalidOption,
    JobNotFound,
    RelayCancelled,
    RelayDiscarded,
    RelayTimeout,
    articled,
    shown,
)
from oban_sa.jobs.durable import RELAY
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.schedule import clock, periods
from oban_sa.schedule.periods import Period
from oban_sa.sql.relay import CHANNEL

FIRST: Final = 0.05
LAST: Final = 1.0
"""Seconds between looks at the job: they double from the first to the last."""


class RelayControl:
    """The method that waits for a job."""

    engine: AsyncEngine
    _transactions: Transactions
    _enqueue: Enqueue

    async def relay(
        self,
        job: Job | int,
        *,
        within: Period | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> Any:
        """Store a job, wait until it has ended, and return what it recorded; None where that is nothing.

            value = await oban.relay(add_up.new(7), within="30 seconds")

        A job that is stored already, or its id, is only waited for. Runners tell of the end on an engine with asyncpg,
        for which one connection beside the pool listens while anything is waited for; besides, the job is looked at
        again and again, each second in the end. `on_progress`, which may be async, is called with what the job says by
        `progress`.

        Raises `RelayTimeout` where it has not ended `within` a time, and goes on all the same; `RelayCancelled`, and
        `RelayDiscarded` with the job's `errors`; `JobNotFound` where it was deleted; `InvalidJob` for a job that a
        session is about to store.
        """
        until = None if within is None else clock.monotonic() + periods.span(within, "within")
        if on_progress is not None and not callable(on_progress):  # pyright: ignore[reportUnnecessaryComparison]
            raise InvalidOption(f"on_progress is a function of what the job says, not {shown(on_progress)}")
        if isinstance(job, Job) and vars(job).get("id") is None:
            if object_session(job) is not None:
                raise InvalidJob(f"{job} is in a session, which stores it; wait for it once that is committed")
            job.update({"meta": {**(job.meta or {}), RELAY: True}})
            async with _ears(self.engine).listening() as ears:
                identity = (await self._enqueue.write(job)).id
                with ears.of(identity) as heard:
                    return await self._ended(identity, until, heard, on_progress)
        identity = _identity(job)
        async with _ears(self.engine).listening() as ears:
            with ears.of(identity) as heard:
                return await self._ended(identity, until, heard, on_progress)

    async def _ended(
        self,
        identity: int,
        until: float | None,
        heard: asyncio.Event,
        on_progress: Callable[[Progress], object] | None,
    ) -> object:
        pause: float = FIRST
        said: tuple[float, str | None] | None = None
        while True:
            heard.clear()
            found, progress = await self._transactions.run(
                lambda work: _look(work, identity, progress=on_progress is not None)
            )
            # A later attempt says again what it has said before it waited.
            if on_progress is not None and progress is not None and (progress.done, progress.note) != said:
                said = progress.done, progress.note
                answer = on_progress(progress)
                if isawaitable(answer):
                    await answer
            match found.state:
                case JobState.COMPLETED:
                    return found.recorded()
                case JobState.CANCELLED:
                    raise RelayCancelled(f"job {identity} was cancelled{_last(found)}")
                case JobState.DISCARDED:
                    raise RelayDiscarded(f"job {identity} was discarded{_last(found)}", errors=found.errors)
                case _:
                    pass
            rest = pause if until is None else min(pause, until - clock.monotonic())
            if rest <= 0:
                raise RelayTimeout(f"job {identity} is {found.state}, and the time to wait for it is over")
            with suppress(TimeoutError):
                await asyncio.wait_for(heard.wait(), rest)
            pause = min(2 * pause, LAST)


def _look(work: Work, identity: int, *, progress: bool) -> tuple[Job, Progress | None]:
    found = work.execute(select(Job).where(Job.id == identity)).scalar_one_or_none()
    if found is None:
        raise JobNotFound(f"no job in schema {work.schema!r} has the id {identity}; it was deleted or pruned")
    return found, progress_of(work, identity) if progress else None


def _last(job: Job) -> str:
    if not job.errors:
        return ""
    return ": " + str(job.errors[-1].get("error", "")).partition("\n")[0]


def _identity(job: object) -> int:
    found: object = vars(job).get("id") if isinstance(job, Job) else job
    if type(found) is not int:
        raise InvalidOption(f"a job is waited for by its id or as a Job, not as {articled(type(job).__name__)}")
    return found


class _Listening(Protocol):
    """A connection of a driver that calls back where it hears something."""

    async def add_listener(self, channel: str, callback: Callable[..., object]) -> None: ...


class Ears:
    """One connection that listens while any job is waited for; none where the driver has no way to call back."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._users = 0
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection | None = None

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[Ears]:
        """Listen inside the block."""
        async with self._lock:
            self._users += 1
            if self._users == 1:
                with suppress(Exception):  # what is not heard is found by looking
                    await self._open()
        try:
            yield self
        finally:
            async with self._lock:
                self._users -= 1
                if self._users == 0 and (connection := self._connection) is not None:
                    self._connection = None
                    with suppress(Exception):
                        await connection.close()

    def of(self, identity: int) -> _Heard:
        """Return an event that is set, inside a `with` block, when the job is told of."""
        return _Heard(self._waiting, identity)

    async def _open(self) -> None:
        connection = await self._engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        try:
            driver = (await connection.get_raw_connection()).driver_connection
            if not hasattr(driver, "add_listener"):
                await connection.close()
                return
            # It is none of the pool's any more, so that those who wait keep no other from a connection.
            await connection.run_sync(Connection.detach)
            await cast("_Listening", driver).add_listener(CHANNEL, self._hear)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if isinstance(payload, str) and payload.isdecimal():
            for event in self._waiting.get(int(payload), ()):
                event.set()


class _Heard:
    def __init__(self, waiting: dict[int, set[asyncio.Event]], identity: int) -> None:
        self._waiting = waiting
        self._identity = identity
        self._event = asyncio.Event()

    def __enter__(self) -> asyncio.Event:
        self._waiting.setdefault(self._identity, set()).add(self._event)
        return self._event

    def __exit__(self, *_: object) -> None:
        events = self._waiting[self._identity]
        events.discard(self._event)
        if not events:
            del self._waiting[self._identity]


_known: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, WeakKeyDictionary[AsyncEngine, Ears]]] = WeakKeyDictionary()


def _ears(engine: AsyncEngine) -> Ears:
    """Return those of an engine, on this loop."""
    engines = _known.setdefault(asyncio.get_running_loop(), WeakKeyDictionary())
    if (ears := engines.get(engine)) is None:
        ears = engines[engine] = Ears(engine)
    return ears
