"""Sessions of attempts that are drained: on the test's own connection where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidOption
from oban_sa.testing.binds import Bind, Binding
from oban_sa.workers import Definition


class SharedSessions:
    """Makes the sessions of attempts behind the test's engine, or inside the transaction that the test has open.

    There each gets a savepoint: its commit releases that, so the test's own rollback takes everything back, and its
    rollback goes no further.
    """

    def __init__(self, binding: Binding) -> None:
        self._shared: Bind = binding.bind

    def make(self, definition: Definition) -> AsyncSession | Session:
        """Make a session of the class that a worker takes; what a synchronous one sends by asyncpg is sent on the loop.

        Raises InvalidOption for an asynchronous session where what is drained is synchronous.
        """
        shared, session_class = self._shared, definition.session_class
        if definition.session == "async":
            if isinstance(shared, (Connection, Engine)):
                raise InvalidOption(
                    f"{definition.body.what} takes an AsyncSession, and what is drained is synchronous; "
                    "drain an AsyncEngine or an AsyncSession"
                )
            return self._asynchronous(session_class)
        if isinstance(shared, (AsyncConnection, AsyncEngine)):
            return self._asynchronous(AsyncSession, sync_session_class=session_class).sync_session
        return cast("Session", self._made(session_class))

    def _asynchronous(self, session_class: object, **options: object) -> AsyncSession:
        return cast("AsyncSession", self._made(session_class, **options))

    def _made(self, session_class: object, **options: object) -> object:
        make = cast("Callable[..., object]", session_class)
        return make(self._shared, expire_on_commit=False, join_transaction_mode="create_savepoint", **options)
