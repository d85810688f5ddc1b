"""Sessions of every kind that SQLAlchemy has, and what to write instead of what is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import InstanceState, Session, scoped_session, sessionmaker

from oban_sa.errors import articled
from oban_sa.models import Job

T = TypeVar("T")

AnySession: TypeAlias = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]
"""A session of any kind that SQLAlchemy has."""


def unscoped(given: Any) -> Any:
    """Return the session that a scoped session stands for here and now, and anything else as it is."""
    if isinstance(given, (scoped_session, async_scoped_session)):
        return cast("Any", given).registry()
    return given


def session_behind(given: Any) -> Session:
    """Return the synchronous session that does the work of a session of any kind.

    Raises `TypeError` for what is no session; the message says what to write.
    """
    if isinstance(given, Session):
        return given
    if isinstance(given, AsyncSession):
        return given.sync_session
    if (session := unscoped(given)) is not given:
        return session_behind(session)
    raise TypeError(f"a session comes first, and this is {named(given)}; {_instead(given)}")


async def run_in(session: AnySession, work: Callable[[Session], T]) -> T:
    """Call `work` with the synchronous session behind a session of any kind, in a greenlet where that is needed.

    Raises `TypeError` for what is no session; the message says what to write.
    """
    found = unscoped(session)
    if isinstance(found, AsyncSession):
        return await found.run_sync(work)
    if isinstance(found, Session):
        return work(found)
    raise TypeError(
        f"session must be a Session or an AsyncSession, got {type(found).__name__}; open one: "
        "async with sessions.begin() as session: ..."
    )


def named(given: object) -> str:
    """Name a value that is refused by its kind: "a str", "the class User"."""
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return articled(type(given).__name__)


def _instead(given: object) -> str:
    match given:
        case Job():
            return "write enqueue(session, job)"
        case sessionmaker():
            return "open one: with sessions.begin() as session: enqueue(session, job)"
        case async_sessionmaker():
            return "open one: async with sessions.begin() as session: enqueue(session, job)"
        case Engine() | Connection():
            return "open one: with Session(engine) as session, session.begin(): enqueue(session, job)"
        case AsyncEngine() | AsyncConnection():
            return "open one: async with AsyncSession(engine) as session, session.begin(): ..."
        case _ if hasattr(given, "__enter__"):
            return "enter it: with sessions.begin() as session: enqueue(session, job)"
        case _ if hasattr(given, "__aenter__"):
            return "enter it: async with sessions.begin() as session: enqueue(session, job)"
        case _:
            return "enqueue takes Session, AsyncSession, scoped_session and async_scoped_session"


def by_connection(session: Session, states: Iterable[InstanceState[Job]]) -> dict[Connection, list[Job]]:
    """Return the jobs of a flush by the connections that they are written on, as a sharded one has several."""
    found: dict[Connection, list[Job]] = {}
    choose = session.connection_callable
    for state in states:
        if (job := state.obj()) is None:
            continue
        if choose is None:
            connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
        else:
            connection = choose(Job.__mapper__, job)
        found.setdefault(connection, []).append(job)
    return found
