"""Sessions of attempts that are drained: on the test's own connection where there is one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.runner import forks
from oban_sa.runner.sessions import Around, AroundCode, AttemptSessions, Judge, settle, settle_in_thread
from oban_sa.runner.settling import Settled
from oban_sa.runner.threads import ThreadCall
from oban_sa.runner.time_limit import TimeLimit
from oban_sa.testing.places import Bind, Place
from oban_sa.workers import Definition


class SharedSessions(AttemptSessions):
    """Opens the sessions of attempts behind the test's engine, or inside the transaction that the test has open.

    There each gets a savepoint: its commit releases that, so the test's own rollback takes everything back, and its
    rollback goes no further.
    """

    def __init__(self, place: Place) -> None:
        # Nothing of what the base keeps is needed: these sessions borrow no connection from a pool.
        self._shared: Bind = place.bind

    async def settled(
        self, definition: Definition, job: Job, judge: Judge, around: Around | None, time_limit: TimeLimit
    ) -> Settled:
        """Run code that takes an asynchronous session, on the loop."""
        if isinstance(self._shared, (Connection, Engine)):
            raise InvalidOption(
                f"{definition.body.what} takes an AsyncSession, and what is drained is synchronous; "
                "drain an AsyncEngine or an AsyncSession"
            )
        session = self._asynchronous(definition.session_class)
        return await settle(session, job, judge, lambda: forks.awaited(definition.call(job, session)), around)

    def settled_in_thread(
        self,
        definition: Definition,
        job: Job,
        judge: Judge,
        around: AroundCode | None,
        time_limit: TimeLimit,
        call: ThreadCall,
    ) -> Settled:
        """Run code that takes a synchronous session, in this thread; an asynchronous driver stays on the loop."""
        session_class: Any = definition.session_class
        session: Session
        if isinstance(self._shared, (AsyncConnection, AsyncEngine)):
            session = self._asynchronous(AsyncSession, sync_session_class=session_class).sync_session
        else:
            session = session_class(self._shared, expire_on_commit=False, join_transaction_mode="create_savepoint")
        return settle_in_thread(
            session, job, judge, lambda: forks.called(definition.call, job, session), around, call=call
        )

    def _asynchronous(self, session_class: Any, **options: Any) -> AsyncSession:
        session: AsyncSession = session_class(
            self._shared, expire_on_commit=False, join_transaction_mode="create_savepoint", **options
        )
        return session
