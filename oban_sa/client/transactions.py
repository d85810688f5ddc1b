"""Where the client's statements run: in the caller's session, or in a short transaction of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Executable, Result, TwoPhaseTransaction, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa import messages
from oban_sa.enqueueing import AnySession
from oban_sa.errors import InvalidOption
from oban_sa.models import Job, schema_map
from oban_sa.outbox import ANNOUNCE
from oban_sa.sql.sqlstates import sqlstate

T = TypeVar("T")

TRIES: Final = 5
"""How often a transaction of our own is tried that others deadlock with; runners lock many rows of their own."""

_COLLISIONS: Final = frozenset({"40001", "40P01"})


class Work:
    """A session to work in, with the tables found in the client's schema."""

    def __init__(self, session: Session, schema: str, *, announce: bool, owned: bool) -> None:
        self.session = session
        self.schema = schema
        self.owned = owned
        self._announce = announce
        self.connection: Connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
        options = self.connection.get_execution_options()
        # What the application says of its own schemas stays as it is.
        self._options: dict[str, Any] = {
            "schema_translate_map": {**(options.get("schema_translate_map") or {}), **schema_map(schema)}
        }

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None, **options: Any
    ) -> Result[Any]:
        """Run a statement on the connection that jobs are on."""
        return self.session.execute(
            statement,
            parameters or {},
            execution_options={**self._options, **options},
            bind_arguments={"mapper": Job.__mapper__},
        )

    def get(self, job_id: int) -> Job | None:
        """Read one job as it is now."""
        return self.session.get(Job, job_id, populate_existing=True, execution_options=self._options)

    def refresh(self, ids: list[int] | None = None) -> None:
        """Bring the caller's own jobs, or those with certain ids, up to date without expiring any."""
        known = self.known() if ids is None else self.known() & set(ids)
        if known:
            statement = select(Job).where(Job.id.in_(known))
            self.execute(statement, populate_existing=True).scalars().all()

    def known(self) -> set[int]:
        """The ids of the jobs that the caller's session holds."""
        if self.owned:
            return set()
        return {key[1][0] for key in self.session.identity_map.keys() if issubclass(key[0], Job)}  # noqa: SIM118

    def channel(self, short: str, *, always: bool = False) -> str | None:
        """The channel to notify on, or None where this transaction can't or is not to; signals go out `always`."""
        options = self.connection.get_execution_options()
        if not always and not (
            self._announce and options.get(ANNOUNCE, True) and self.session.info.get(ANNOUNCE, True)
        ):
            return None
        # PostgreSQL refuses to prepare a transaction that has notified.
        if isinstance(self.connection.get_transaction(), TwoPhaseTransaction):
            return None
        try:
            return messages.channel(self.schema, short)
        except InvalidOption:  # no channel can bear the name of this schema; its runners poll
            return None


class Transactions:
    """Gives work a session: the caller's, whose transaction it stays in, or one of its own."""

    def __init__(self, engine: AsyncEngine, schema: str, *, announce: bool) -> None:
        self.engine = engine.execution_options(
            # The statements count on it: a row that others held is looked at as they left it. It also makes a
            # transaction of what an engine on AUTOCOMMIT would do piece by piece.
            isolation_level="READ COMMITTED",
            schema_translate_map={
                **(engine.get_execution_options().get("schema_translate_map") or {}),
                **schema_map(schema),
            },
        )
        self.schema = schema
        self._announce = announce

    async def run(self, work: Callable[[Work], T], session: AnySession | None = None) -> T:
        """Run `work` in the caller's session, flushed, or else in a transaction that is committed when it returns.

        Our own transaction is tried again where the database ends it because of others.
        """
        if session is not None:
            return await self._inside(work, session)
        for tries in range(1, TRIES + 1):
            try:
                async with AsyncSession(self.engine, expire_on_commit=False) as own, own.begin():
                    return await own.run_sync(lambda sync: work(self._work(sync, owned=True)))
            except DBAPIError as error:
                if tries == TRIES or sqlstate(error) not in _COLLISIONS:
                    raise
        raise AssertionError("unreachable")

    async def _inside(self, work: Callable[[Work], T], session: Any) -> T:
        given: object = session
        if isinstance(session, (scoped_session, async_scoped_session)):
            session = cast("Any", session).registry()
        if isinstance(session, AsyncSession):
            return await session.run_sync(lambda sync: self._flushed(work, sync))
        if isinstance(session, Session):
            return self._flushed(work, session)
        raise TypeError(
            f"session must be a Session or an AsyncSession, got {type(given).__name__}; open one: "
            "async with sessions.begin() as session: ..."
        )

    def _flushed(self, work: Callable[[Work], T], session: Session) -> T:
        session.flush()
        return work(self._work(session, owned=False))

    def _work(self, session: Session, *, owned: bool) -> Work:
        return Work(session, self.schema, announce=self._announce, owned=owned)
