"""The application's own sessionmaker, which makes the sessions of attempts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa.describe import callables, exceptions
from oban_sa.errors import InvalidOption, articled
from oban_sa.models import Job
from oban_sa.workers.definition import Definition

Sessions: TypeAlias = "async_sessionmaker[Any] | sessionmaker[Any] | Callable[[], AsyncSession | Session]"
"""What makes sessions: a sessionmaker, asynchronous or not, or anything that returns a new session when called."""


class ApplicationSessions:
    """Makes sessions as the application does; one that makes `AsyncSession`s serves synchronous workers too."""

    def __init__(self, sessions: Sessions) -> None:
        """Raises InvalidOption for what can't make sessions."""
        self._call = _callable(sessions)

    def make(self, definition: Definition) -> AsyncSession | Session:
        """Make a session; raises InvalidOption where what comes out is not what the worker takes."""
        session = self._made()
        if (words := refusal(definition, session)) is not None:
            raise InvalidOption(words)
        return session if definition.session == "async" else _synchronous(session)

    def _made(self) -> AsyncSession | Session:
        try:
            session: Any = self._call()
        except Exception as error:
            raise InvalidOption(f"sessions: making a session failed: {exceptions.describe(error)}") from error
        if not isinstance(session, (AsyncSession, Session)):
            if inspect.iscoroutine(session):
                session.close()
            raise InvalidOption(f"sessions: calling {self._call!r} returned {_a(session)}, which is no session; {_HOW}")
        return session

    async def check(self, definitions: Iterable[Definition], *, schema: str) -> Engine | None:
        """Raise InvalidOption for what is wrong with a session before it is used; return the engine that has the jobs.

        None, where the sessions work on a connection that the application has opened itself.
        """
        session = self._made()
        try:
            for definition in definitions:
                if definition.session is not None and (words := refusal(definition, session)) is not None:
                    raise InvalidOption(words)
            return _engine(_synchronous(session), schema)
        finally:
            if isinstance(session, AsyncSession):
                await session.close()
            else:
                session.close()


def refusal(definition: Definition, session: AsyncSession | Session) -> str | None:
    """Say why a worker can't be given such a session; None where it can."""
    wanted: Any = definition.session_class
    what = definition.body.what
    if definition.session == "async" and not isinstance(session, AsyncSession):
        return (
            f"{what} takes {articled(wanted.__name__)}, and sessions makes {_a(session)}, which would block the loop; "
            "give the runner an async_sessionmaker (it serves workers that take a Session too), or write `def`"
        )
    given = session if definition.session == "async" else _synchronous(session)
    if isinstance(given, wanted):
        return None
    where = "class_" if definition.session == "async" or isinstance(session, Session) else "sync_session_class"
    return (
        f"{what} takes {articled(wanted.__name__)}, and sessions makes {_a(given)}; "
        f"give its sessionmaker {where}={wanted.__name__}, or annotate the parameter with {type(given).__name__}"
    )


def _callable(sessions: Any) -> Callable[[], Any]:
    if isinstance(sessions, (async_scoped_session, scoped_session)):
        # It keeps a session for each thread or request, and an attempt needs one of its own.
        sessions = cast("Any", sessions).session_factory
    if isinstance(sessions, (AsyncSession, Session)):
        raise InvalidOption(f"sessions: {_a(sessions)} is one session, and each attempt has its own; {_HOW}")
    if isinstance(sessions, (AsyncEngine, Engine)):
        raise InvalidOption(f"sessions: {_a(sessions)} makes no sessions; {_HOW}")
    if callables.is_async(sessions):
        raise InvalidOption(f"sessions: {sessions!r} has to be awaited, and a session is made at once; {_HOW}")
    if callables.yields(sessions):
        raise InvalidOption(f"sessions: {sessions!r} yields sessions instead of returning one; {_HOW}")
    if not callable(sessions):
        raise InvalidOption(f"sessions: {sessions!r} is no sessionmaker; {_HOW}")
    made: Callable[[], Any] = sessions
    return made


_HOW = "give for example async_sessionmaker(engine, expire_on_commit=False)"


def _synchronous(session: AsyncSession | Session) -> Session:
    return session.sync_session if isinstance(session, AsyncSession) else session


def _engine(session: Session, schema: str) -> Engine | None:
    if session.twophase:
        raise InvalidOption(
            "sessions: a session with twophase=True can't end an attempt, which is committed at once; "
            "give another sessionmaker"
        )
    try:
        bind = session.get_bind(mapper=Job.__mapper__)
    except Exception as error:
        raise InvalidOption(
            f"sessions: it doesn't say which database has the jobs ({exceptions.describe(error)}); {_HOW}"
        ) from error
    if not isinstance(bind, Engine):
        return None
    if bind.dialect.name != "postgresql":
        raise InvalidOption(f"sessions: it leads to {bind.dialect.name}, and the jobs are in PostgreSQL; {_HOW}")
    options = bind.get_execution_options()
    if str(options.get("isolation_level", "")).upper() == "AUTOCOMMIT":
        raise InvalidOption(
            "sessions: its engine is on AUTOCOMMIT, so nothing could be committed together with a job or be rolled "
            "back; give a sessionmaker on an engine without it"
        )
    given = cast("dict[Any, Any]", options.get("schema_translate_map") or {}).get("public", schema)
    if given != schema:
        raise InvalidOption(
            f"sessions: it looks for jobs in the schema {given!r}, and the runner works in {schema!r}; "
            "give both the same"
        )
    return bind


def _a(value: object) -> str:
    return articled(type(value).__name__)
