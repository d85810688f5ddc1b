"""Sessions of attempts that are drained: on the test's own connection where there is one."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.runner.sessions import ACKING_ONE, Around, AttemptSessions, Judge, Settled, said, settle
from oban_sa.testing.places import Bind, Place
from oban_sa.workers import Definition


class SharedSessions(AttemptSessions):
    """Opens the sessions of attempts behind the test's engine, or inside the transaction that the test has open.

    There each gets a savepoint: its commit releases that, so the test's own rollback takes everything back, and its
    rollback goes no further.
    """

    def __init__(self, place: Place) -> None:
        # Nothing of what the base keeps is needed: threads have no loop and no pool of their own here.
        self._shared: Bind = place.bind
        self._loop = asyncio.get_running_loop()

    async def settled(self, definition: Definition, job: Job, judge: Judge, around: Around | None = None) -> Settled:
        """Run code that takes an asynchronous session, on the loop."""
        if isinstance(self._shared, (Connection, Engine)):
            raise InvalidOption(
                f"{definition.body.what} takes an AsyncSession, and what is drained is synchronous; "
                "drain an AsyncEngine or an AsyncSession"
            )
        session = self._asynchronous(definition.session_class)
        return await settle(session, job, judge, lambda: definition.call(job, session), around)

    def settled_in_thread(
        self, definition: Definition, job: Job, judge: Judge, around: Around | None = None
    ) -> Settled:
        """Run code that takes a synchronous session, in this thread; or on the loop, where the connection belongs."""
        if isinstance(self._shared, (AsyncConnection, AsyncEngine)):
            on_loop = self._synchronous_on_loop(definition, job, judge, around)
            return asyncio.run_coroutine_threadsafe(on_loop, self._loop).result()
        session_class: Any = definition.session_class
        with session_class(self._shared, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:

            async def call() -> Any:
                return definition.call(job, session)

            verdict = judge(definition.call(job, session) if around is None else asyncio.run(_awaited(around, call)))
            session.flush()
            written = session.execute(ACKING_ONE, said(job, verdict)).first() is not None
            if written:
                session.commit()
            return verdict, written

    def leave_thread(self) -> None:
        """Do nothing: a thread keeps nothing here."""

    async def _synchronous_on_loop(
        self, definition: Definition, job: Job, judge: Judge, around: Around | None
    ) -> Settled:
        session = self._asynchronous(AsyncSession, sync_session_class=definition.session_class)
        within = session.run_sync
        return await settle(session, job, judge, lambda: within(lambda sync: definition.call(job, sync)), around)

    def _asynchronous(self, session_class: Any, **options: Any) -> AsyncSession:
        session: AsyncSession = session_class(
            self._shared, expire_on_commit=False, join_transaction_mode="create_savepoint", **options
        )
        return session


async def _awaited(around: Around, call: Any) -> Any:
    return await around(call)
