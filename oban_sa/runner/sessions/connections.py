"""The connections of attempts' sessions: opened in turn when first used, given back when the transaction ends."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import attrgetter
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Pool, QueuePool, StaticPool, event
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from oban_sa.errors import AttemptError, InvalidOption
from oban_sa.models import Job
from oban_sa.runner.concurrency.threads import ThreadCall
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.schedule import clock

logger = logging.getLogger("oban_sa.runner")

PATIENCE: Final = 60.0
"""Seconds for which an attempt whose turn it is waits for a connection of a pool that has none left.

The others may be in use by attempts too, in sessions that their code or a middleware opened before. Two attempts could
wait for each other without end.
"""

BEYOND_AFTER: Final = 0.1
"""Seconds of waiting after which a slot beyond the usual ones is given, where there are such slots."""


class Connections:
    """How many connections of the application's pools attempts may have at once: as many as a pool keeps.

    What a pool opens beyond those (`max_overflow`) is left to others: to the application itself, and to what workers
    open besides. `limit` is another number; connections that the pool doesn't keep are given after some waiting.
    """

    def __init__(self, *, schema: str, translate: Iterable[str | None] = (), limit: int | None = None) -> None:
        """`translate` are schemas of the application's models that stand for `schema`, as `public` always does."""
        if limit is not None and limit < 1:
            raise InvalidOption(f"connections is {limit}; without any, no worker could use its session")
        self.schema = schema
        self.translate: dict[str | None, str] = dict.fromkeys((*translate, "public"), schema)
        self.in_use: dict[AttemptConnections, float] = {}
        """The attempts that have a connection, and since when by the monotonic clock."""
        self._limit = limit
        self._slots: WeakKeyDictionary[Pool, Slots | None] = WeakKeyDictionary()

    def slots(self, engine: Engine) -> Slots | None:
        """The slots of an engine's pool; None where the pool has no limit."""
        pool = engine.pool
        if pool not in self._slots:
            self._slots[pool] = _slots(pool, self._limit)
        return self._slots[pool]


def _slots(pool: Pool, limit: int | None) -> Slots | None:
    kept = pool.size() if isinstance(pool, QueuePool) else 1 if isinstance(pool, StaticPool) else 0
    if limit is None:
        return Slots(kept) if kept else None
    usual = min(kept, limit) if kept else limit
    return Slots(usual, beyond=limit - usual)


class Slots:
    """A semaphore that is acquired in the order in which it was asked for.

    `beyond` are further slots, for which connections have to be opened that the pool does not keep. They are worth that
    only where the usual ones are taken for long, so they are given to those who have waited for `BEYOND_AFTER` seconds.
    """

    def __init__(self, usual: int, beyond: int = 0) -> None:
        self.usual = usual
        self.beyond = beyond
        self.taken = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(not given.done() for given, _ in self._waiting)

    def try_acquire(self) -> bool:
        """Take a slot if one is free and none waits for it."""
        if self.taken < self.usual and not self._waiting:
            self.taken += 1
            return True
        return False

    async def acquire(self) -> None:
        """Take a slot, after those who asked before."""
        if self.try_acquire():
            return
        loop = asyncio.get_running_loop()
        given: asyncio.Future[None] = loop.create_future()
        self._waiting.append((given, loop.time() + BEYOND_AFTER))
        timer = loop.call_later(BEYOND_AFTER, self._give) if self.beyond else None
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self.release()  # it was given just as the waiting task was cancelled
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self) -> None:
        """Give a slot back: it goes to the task that waits longest."""
        self.taken -= 1
        self._give()

    def _give(self) -> None:
        while self._waiting:
            given, patient_until = self._waiting[0]
            if not given.done():
                has_waited = given.get_loop().time() >= patient_until
                if self.taken >= self.usual + (self.beyond if has_waited else 0):
                    return
                self.taken += 1
                given.set_result(None)
            self._waiting.popleft()


class AttemptConnections:
    """The connections of one attempt's session, which are opened by the session's own `get_bind`.

    So none is open before the first statement, and a transaction that ends early gives back what it had.
    """

    def __init__(self, shared: Connections, session: Session, job: Job, *, time_limit: TimeLimit | None) -> None:
        self.job = job
        self.thread: ThreadCall | None = None
        """The call in which the session is used just now, inside of `bridged`; None where it is used on the loop."""
        self._shared = shared
        self._bind_of = session.get_bind
        self._time_limit = time_limit
        self._open: dict[Engine, Connection] = {}
        self._slots: Slots | None = None
        self._over = False
        self._since: float | None = None
        # On this one session, of any class; SQLAlchemy looks it up there too.
        session.get_bind = self._get_bind  # type: ignore[method-assign]
        event.listen(session, "after_transaction_end", self._transaction_ended)

    @property
    def pids(self) -> list[int]:
        """The server's processes behind the open connections; behind a pooler they mean nothing."""
        return [pid for connection in list(self._open.values()) if (pid := _pid(connection)) is not None]

    @property
    def open_for(self) -> float | None:
        """Seconds since a connection was last opened; None where none ever was."""
        return None if self._since is None else clock.monotonic() - self._since

    def invalidate(self) -> None:
        """Let no one use these connections again: the code was interrupted while it may have been using them."""
        for engine, connection in list(self._open.items()):
            if self.thread is not None and engine.dialect.is_async:
                await_only(greenlet_spawn(connection.invalidate))
            else:
                connection.invalidate()

    def close(self) -> None:
        """Give back what is still open, and open nothing more."""
        self._over = True
        self._give_back()

    def _get_bind(self, *args: Any, **named: Any) -> Engine | Connection:
        if self._over:
            raise AttemptError(
                f"the attempt at job {self.job.id} {self.job.worker} is over, and its session with it; "
                "let the worker await what it starts, or open another session there"
            )
        bind = self._bind_of(*args, **named)
        if not isinstance(bind, Engine):
            return bind
        opened = self._open.get(bind)
        if opened is not None:
            return opened
        # Outside of a greenlet no statement can be sent: the caller only wants to know which engine it would be.
        return self._opened(bind) if in_greenlet() else bind

    def _opened(self, engine: Engine) -> Connection:
        # An attempt that has a connection must not wait without end for another: two could wait for each other's.
        patient = not self._open
        slots = self._shared.slots(engine) if patient and self._slots is None else None
        if self.thread is None:
            if slots is not None:
                if slots.try_acquire():
                    self._slots = slots
                else:
                    await_only(self._acquire(slots))
            with self._paused():
                self._connect(engine, patient)
        elif engine.dialect.is_async:
            await_only(self._connect_on_loop(engine, slots, patient))
        else:
            if slots is not None:
                await_only(self._acquire(slots))
            self.thread.shielded(partial(self._connect, engine, patient))
        return self._open[engine]

    async def _acquire(self, slots: Slots) -> None:
        with self._paused():
            await slots.acquire()
        self._slots = slots

    def _paused(self) -> AbstractContextManager[None]:
        """Let no time of the attempt pass while it waits for its turn, or for the pool; on the loop."""
        return nullcontext() if self._time_limit is None else self._time_limit.paused()

    async def _connect_on_loop(self, engine: Engine, slots: Slots | None, patient: bool) -> None:
        # What is opened is noted here, on the loop: the thread may be interrupted before it hears of it.
        if slots is not None:
            await self._acquire(slots)
        with self._paused():
            await greenlet_spawn(self._connect, engine, patient)

    def _connect(self, engine: Engine, patient: bool) -> None:
        until = clock.monotonic() + PATIENCE
        while True:
            try:
                connection = engine.connect()
                break
            except PoolTimeout:
                if not patient or clock.monotonic() >= until:
                    raise
                logger.warning(
                    "job %s %s waits for a connection: others hold all that its pool may open (%s); "
                    "give it a larger pool_size, or see who keeps them",
                    self.job.id,
                    self.job.worker,
                    engine.pool.status(),
                )
        try:
            self._prepare(engine, connection)
        except BaseException:
            connection.close()
            raise
        if not self._open:
            self._shared.in_use[self] = self._since = clock.monotonic()
        self._open[engine] = connection

    def _prepare(self, engine: Engine, connection: Connection) -> None:
        if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
            raise AttemptError(
                "the sessions of attempts are on AUTOCOMMIT, so that nothing a worker writes could be rolled back or "
                "be committed together with its job; give the runner a sessionmaker on an engine without it"
            )
        given: dict[str | None, str | None] = dict(connection.get_execution_options().get("schema_translate_map") or {})
        schema = self._shared.schema
        if given.get("public", schema) != schema:
            raise AttemptError(
                f"the sessions of attempts look for jobs in the schema {given['public']!r}, "
                f"and the runner works in {schema!r}; give both the same"
            )
        # What the application says of its own schemas stays as it is.
        translated = {**self._shared.translate, **given}
        if translated != given and translated != {"public": "public"}:
            connection.execution_options(schema_translate_map=translated)

    def _transaction_ended(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._give_back()

    def _give_back(self) -> None:
        if self.thread is None:
            try:
                self._close_all()
            finally:
                self._release()
            return
        for engine in [engine for engine in self._open if not engine.dialect.is_async]:
            self.thread.shielded(self._open.pop(engine).close)
        if self._open or self._slots is not None:
            await_only(self._give_back_on_loop())

    async def _give_back_on_loop(self) -> None:
        try:
            await greenlet_spawn(self._close_all)
        finally:
            self._release()

    def _close_all(self) -> None:
        while self._open:
            _, connection = self._open.popitem()
            connection.close()

    def _release(self) -> None:
        self._shared.in_use.pop(self, None)
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


def _pid(connection: Connection) -> int | None:
    driver = connection.connection.driver_connection
    for path in ("get_server_pid", "info.backend_pid", "get_backend_pid"):
        try:
            found = attrgetter(path)(driver)
            pid: Any = found() if callable(found) else found
            return int(pid)
        except Exception:  # noqa: S112 - another driver, or a connection that was closed meanwhile
            continue
    return None
