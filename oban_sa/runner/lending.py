"""The connections that attempts' sessions hold: taken when first used, given back when the transaction ends."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from operator import attrgetter
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, Pool, QueuePool, StaticPool, event
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import await_only, greenlet_spawn

from oban_sa import clock
from oban_sa.errors import AttemptError, InvalidOption
from oban_sa.models import Job
from oban_sa.runner.bridge import in_greenlet
from oban_sa.runner.gate import Gate
from oban_sa.runner.threads import ThreadCall
from oban_sa.runner.time_limit import TimeLimit

logger = logging.getLogger("oban_sa.runner")

PATIENCE: Final = 60.0
"""Seconds for which an attempt whose turn it is waits for a connection that others hold.

Those may be attempts too, with sessions that their code or a middleware opened before: they would wait without end.
"""


class Lender:
    """Lets attempts have connections of the application's pools: as many at once as a pool keeps.

    What the pool opens beyond those (`max_overflow`) is left to others: to the application itself, and to what bodies
    open besides. `connections` is another limit; those that the pool doesn't keep are given after some waiting.
    """

    def __init__(self, *, schema: str, translate: Iterable[str | None] = (), connections: int | None = None) -> None:
        """`translate` are schemas of the application's models that stand for `schema`, as `public` always does."""
        if connections is not None and connections < 1:
            raise InvalidOption(f"connections is {connections}; without any, no worker could use its session")
        self.schema = schema
        self.translate: dict[str | None, str] = dict.fromkeys((*translate, "public"), schema)
        self.loans: dict[Loan, float] = {}
        """Those that hold connections, and since when by the monotonic clock."""
        self._connections = connections
        self._gates: WeakKeyDictionary[Pool, Gate | None] = WeakKeyDictionary()

    def gate(self, engine: Engine) -> Gate | None:
        """The gate before an engine's pool; None where the pool has no limit."""
        pool = engine.pool
        if pool not in self._gates:
            self._gates[pool] = _gate(pool, self._connections)
        return self._gates[pool]


def _gate(pool: Pool, connections: int | None) -> Gate | None:
    kept = pool.size() if isinstance(pool, QueuePool) else 1 if isinstance(pool, StaticPool) else 0
    if connections is None:
        return Gate(kept) if kept else None
    usual = min(kept, connections) if kept else connections
    return Gate(usual, beyond=connections - usual)


class Loan:
    """What one attempt's session borrows; it's the session's own `get_bind` that takes a connection.

    So nothing is held before the first statement, and a transaction that ends early gives back what it had.
    """

    def __init__(
        self, lender: Lender, session: Session, job: Job, *, time_limit: TimeLimit, thread: ThreadCall | None = None
    ) -> None:
        """`thread` is where the session is used, if not on the loop; the code there runs in `bridged`."""
        self.job = job
        self._lender = lender
        self._bind_of = session.get_bind
        self._time_limit = time_limit
        self._thread = thread
        self._held: dict[Engine, Connection] = {}
        self._gate: Gate | None = None
        self._over = False
        self._since: float | None = None
        # On this one session, whatever its class; SQLAlchemy looks it up there too.
        session.get_bind = self._get_bind  # type: ignore[method-assign]
        event.listen(session, "after_transaction_end", self._transaction_ended)

    @property
    def pids(self) -> list[int]:
        """The server's processes behind the connections that are held; behind a pooler they mean nothing."""
        return [pid for connection in list(self._held.values()) if (pid := _pid(connection)) is not None]

    @property
    def held_for(self) -> float | None:
        """Seconds since it took a connection last; None where it never did."""
        return None if self._since is None else clock.monotonic() - self._since

    def spoil(self) -> None:
        """Let nobody use these connections again: the code was struck while it may have been using them."""
        for engine, connection in list(self._held.items()):
            if self._thread is not None and engine.dialect.is_async:
                await_only(greenlet_spawn(connection.invalidate))
            else:
                connection.invalidate()

    def end(self) -> None:
        """Give back what is still held, and lend nothing more."""
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
        held = self._held.get(bind)
        if held is not None:
            return held
        # Whoever asks outside of a greenlet only wants to know, since no statement could be sent from there.
        return self._take(bind) if in_greenlet() else bind

    def _take(self, engine: Engine) -> Connection:
        # Whoever holds one already must not wait without end for another: two could wait so for each other's.
        patient = not self._held
        gate = self._lender.gate(engine) if patient and self._gate is None else None
        if self._thread is None:
            if gate is not None:
                if gate.enter_now():
                    self._gate = gate
                else:
                    await_only(self._enter(gate))
            with self._time_limit.paused():
                self._open(engine, patient)
        elif engine.dialect.is_async:
            await_only(self._taken(engine, gate, patient))
        else:
            if gate is not None:
                await_only(self._enter(gate))
            self._thread.shielded(partial(self._open, engine, patient))
        return self._held[engine]

    async def _enter(self, gate: Gate) -> None:
        with self._time_limit.paused():
            await gate.enter()
        self._gate = gate

    async def _taken(self, engine: Engine, gate: Gate | None, patient: bool) -> None:
        # What is taken is noted here, on the loop: the thread may be interrupted before it hears of it.
        if gate is not None:
            await self._enter(gate)
        with self._time_limit.paused():
            await greenlet_spawn(self._open, engine, patient)

    def _open(self, engine: Engine, patient: bool) -> None:
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
        if not self._held:
            self._lender.loans[self] = self._since = clock.monotonic()
        self._held[engine] = connection

    def _prepare(self, engine: Engine, connection: Connection) -> None:
        if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
            raise AttemptError(
                "the sessions of attempts are on AUTOCOMMIT, so that nothing a worker writes could be rolled back or "
                "be committed together with its job; give the runner a sessionmaker on an engine without it"
            )
        given: dict[str | None, Any] = dict(connection.get_execution_options().get("schema_translate_map") or {})
        schema = self._lender.schema
        if given.get("public", schema) != schema:
            raise AttemptError(
                f"the sessions of attempts look for jobs in the schema {given['public']!r}, "
                f"and the runner works in {schema!r}; give both the same"
            )
        # What the application says of its own schemas stays as it is.
        translated = {**self._lender.translate, **given}
        if translated != given and translated != {"public": "public"}:
            connection.execution_options(schema_translate_map=translated)

    def _transaction_ended(self, _session: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            self._give_back()

    def _give_back(self) -> None:
        if self._thread is None:
            try:
                self._return()
            finally:
                self._leave()
            return
        for engine in [engine for engine in self._held if not engine.dialect.is_async]:
            self._thread.shielded(self._held.pop(engine).close)
        if self._held or self._gate is not None:
            await_only(self._given_back())

    async def _given_back(self) -> None:
        try:
            await greenlet_spawn(self._return)
        finally:
            self._leave()

    def _return(self) -> None:
        while self._held:
            _, connection = self._held.popitem()
            connection.close()

    def _leave(self) -> None:
        self._lender.loans.pop(self, None)
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.leave()


def _pid(connection: Connection) -> int | None:
    driver: Any = connection.connection.driver_connection
    for path in ("get_server_pid", "info.backend_pid", "get_backend_pid"):
        try:
            found: Any = attrgetter(path)(driver)
            pid: Any = found() if callable(found) else found
            return int(pid)
        except Exception:  # noqa: S112 - another driver, or a connection that was closed meanwhile
            continue
    return None
