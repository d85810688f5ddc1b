"""Where the client's statements run: in the caller's session, or in a short transaction of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Executable, Result, TwoPhaseTransaction, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidOption
from oban_sa.models import Job, schema_map
from oban_sa.outbox.announcements import is_announced
from oban_sa.outbox.sessions import AnySession, run_in
from oban_sa.sql.errors import sqlstate
from oban_sa.wire import messages

T = TypeVar("T")

TRIES: Final = 5
"""Tries of a transaction of our own that fails by a deadlock or a serialization failure; runners lock many rows."""

_RETRIED: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs: serialization_failure and deadlock_detected."""


class Work:
    """A session whose statements find the tables in the client's schema; `owned` where the client made it."""

    def __init__(self, session: Session, schema: str, *, announce: bool, owned: bool) -> None:
        self.session = session
        self.schema = schema
        self.owned = owned
        self._announce = announce
        self.connection: Connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
        options = self.connection.get_execution_options()
        # The application's own translations of schemas stay.
        self._options: dict[str, object] = {
            "schema_translate_map": {**(options.get("schema_translate_map") or {}), **schema_map(schema)}
        }

    def execute(
        self, statement: Executable, parameters: Mapping[str, object] | None = None, **options: Any
    ) -> Result[Any]:
        """Run a statement on the connection that jobs are on."""
        return self.session.execute(
            statement,
            parameters or {},
            execution_options={**self._options, **options},
            bind_arguments={"mapper": Job.__mapper__},
        )

    def get(self, job_id: int) -> Job | None:
        """Return a job as it is in the database now, or None."""
        return self.session.get(Job, job_id, populate_existing=True, execution_options=self._options)

    def refresh(self, ids: list[int] | None = None) -> None:
        """Refresh the jobs that the caller's session has loaded, or those of them with certain ids."""
        known = self.known() if ids is None else self.known() & set(ids)
        if known:
            statement = select(Job).where(Job.id.in_(known))
            self.execute(statement, populate_existing=True).scalars().all()

    def known(self) -> set[int]:
        """Return the ids of the jobs that the caller's session has loaded."""
        if self.owned:
            return set()
        return {key[1][0] for key in self.session.identity_map.keys() if issubclass(key[0], Job)}  # noqa: SIM118

    def channel(self, short: str, *, always: bool = False) -> str | None:
        """Return the channel to notify on, or None where this transaction must not notify.

        `always` ignores that announcements are switched off, as signals to nodes do.
        """
        if not always and not (self._announce and is_announced(self.connection, self.session)):
            return None
        # PostgreSQL refuses to prepare a transaction that has notified.
        if isinstance(self.connection.get_transaction(), TwoPhaseTransaction):
            return None
        try:
            return messages.channel(self.schema, short)
        except InvalidOption:  # the schema's name is too long for a channel; its runners poll
            return None


class Transactions:
    """Runs work in the caller's session and transaction, or in one of its own."""

    def __init__(self, engine: AsyncEngine, schema: str, *, announce: bool) -> None:
        options: dict[str, Any] = {
            "schema_translate_map": {
                **(engine.get_execution_options().get("schema_translate_map") or {}),
                **schema_map(schema),
            }
        }
        # The statements rely on READ COMMITTED: PostgreSQL then evaluates a condition again on a row that another
        # transaction had locked and changed. An engine on AUTOCOMMIT would commit each statement by itself.
        self.engine = engine.execution_options(isolation_level="READ COMMITTED", **options)
        self.statements = engine.execution_options(isolation_level="AUTOCOMMIT", **options)
        """The engine for statements that commit by themselves, in one round trip."""
        self.schema = schema
        self._announce = announce

    async def run(self, work: Callable[[Work], T], session: AnySession | None = None) -> T:
        """Run `work` in the caller's session, flushed, or in a transaction of its own, and return its result.

        A transaction of its own is committed, and tried again, up to `TRIES` times, after a deadlock or a serialization
        failure. Raises `TypeError` where `session` is no session.
        """
        if session is not None:
            return await run_in(session, lambda sync: self._flushed(work, sync))
        for tries in range(1, TRIES + 1):
            try:
                async with AsyncSession(self.engine, expire_on_commit=False) as own, own.begin():
                    return await own.run_sync(lambda sync: work(self._work(sync, owned=True)))
            except DBAPIError as error:
                if tries == TRIES or sqlstate(error) not in _RETRIED:
                    raise
        raise AssertionError("unreachable")

    def _flushed(self, work: Callable[[Work], T], session: Session) -> T:
        session.flush()
        return work(self._work(session, owned=False))

    def _work(self, session: Session, *, owned: bool) -> Work:
        return Work(session, self.schema, announce=self._announce, owned=owned)
