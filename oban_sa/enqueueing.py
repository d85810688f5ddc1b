"""`enqueue` and `enqueue_many`: asking for work inside a session's own transaction."""

from __future__ import annotations

from collections.abc import AsyncIterable, Coroutine, Iterable
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.orm.attributes import instance_state

from oban_sa import outbox, targets
from oban_sa.errors import InvalidJob, articled
from oban_sa.models import Job
from oban_sa.states import FINAL, JobState
from oban_sa.values import has_references, is_flat, to_json

AnySession: TypeAlias = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]
"""A session of any kind that SQLAlchemy has."""

_PAST: Final = FINAL | {JobState.EXECUTING}


def enqueue(session: AnySession, job: Job) -> Job:
    """Stage `job` in `session` and return it; the session's next flush writes it, in the session's own transaction.

    After the flush `job.id`, `state`, `inserted_at` and `scheduled_at` are set. Values in args and meta become JSON at
    once. Raises `InvalidArguments` for values JSON can't hold, `ReferenceOutsideSession` for a reference to an object
    that is not in this session, `InvalidJob` for a job that is stored already, `SessionEnded` in a listener to the
    session's commit or rollback; nothing was staged then. Where the session is closed without having written the job,
    other than by an error, a `JobNeverWritten` warns of it.
    """
    target = session_behind(session)
    _stage(target, [job])
    return job


def enqueue_many(session: AnySession, jobs: Iterable[Job]) -> list[Job]:
    """Stage all of `jobs` in `session` and return them as a list, in their order, which will be that of their ids.

    Raises what `enqueue` raises, and then none was staged; an `InvalidJob` says in its message and its `index` which of
    them it was.
    """
    target = session_behind(session)
    staged = _listed(jobs)
    _stage(target, staged, numbered=True)
    return staged


def _stage(session: Session, jobs: list[Job], *, numbered: bool = False) -> None:
    accepted: list[tuple[Any, Any]] = []
    try:
        for job in jobs:
            accepted.append(_accepted(session, job))  # noqa: PERF401 - its length says which was refused
    except InvalidJob as refused:
        if numbered:
            refused.number(len(accepted))
        raise
    if len(jobs) > 1 and len({id(job) for job in jobs}) < len(jobs):
        raise InvalidJob("the same Job stands twice among those to enqueue; make a new one for each")
    for job, (args, meta) in zip(jobs, accepted, strict=True):
        # Written past the instrumentation, which costs more than all the rest: what has no row yet has no history.
        loaded = vars(job)
        if args is not None:
            loaded["args"] = args
        if meta is not None:
            loaded["meta"] = meta
    outbox.stage(session, jobs)


def _accepted(session: Session, job: Any) -> tuple[Any, Any]:
    """Return the job's args and meta as JSON, their references left in place but looked at; None for what is empty."""
    if not isinstance(job, Job):
        raise TypeError(_not_a_job(job))
    if instance_state(job).key is not None:
        raise InvalidJob(f"{job} is stored already; retry that one, or enqueue a new one made of the same args")
    loaded = vars(job)
    if loaded.get("state") in _PAST:
        raise InvalidJob(f"a job that is {loaded['state']} can't be enqueued; session.add(job) stores one as it is")
    args, meta = loaded.get("args"), loaded.get("meta")
    return (
        None if _is_empty(args) else _as_json(session, args, "args"),
        None if _is_empty(meta) else _as_json(session, meta, "meta"),
    )


def _is_empty(value: Any) -> bool:
    # A dict of another class may say anything of itself.
    return value is None or (type(value) is dict and not value)


def _as_json(session: Session, value: Any, where: str) -> Any:
    if is_flat(value):
        return value.copy()
    plain = to_json(value, where=where)
    if has_references(plain):
        targets.check(session, plain, where=where)
    return plain


def session_behind(given: Any) -> Session:
    """Return the session proper behind a session of any kind; raises `TypeError` for what is none."""
    if isinstance(given, Session):
        return given
    if isinstance(given, AsyncSession):
        return given.sync_session
    if isinstance(given, (scoped_session, async_scoped_session)):
        return session_behind(given.registry())
    raise TypeError(_not_a_session(given))


def _listed(jobs: Any) -> list[Job]:
    if isinstance(jobs, Job):
        raise TypeError("enqueue_many takes several jobs; for one write enqueue(session, job)")
    if isinstance(jobs, AsyncIterable):
        raise TypeError("enqueue_many can't await; write [job async for job in jobs]")
    return list(jobs)


def _not_a_session(given: object) -> str:
    start = f"a session comes first, and this is {_named(given)}; "
    match given:
        case Job():
            return start + "write enqueue(session, job)"
        case sessionmaker():
            return start + "open one: with sessions.begin() as session: enqueue(session, job)"
        case async_sessionmaker():
            return start + "open one: async with sessions.begin() as session: enqueue(session, job)"
        case Engine() | Connection():
            return start + "open one: with Session(engine) as session, session.begin(): enqueue(session, job)"
        case AsyncEngine() | AsyncConnection():
            return start + "open one: async with AsyncSession(engine) as session, session.begin(): ..."
        case _ if hasattr(given, "__enter__"):
            return start + "enter it: with sessions.begin() as session: enqueue(session, job)"
        case _ if hasattr(given, "__aenter__"):
            return start + "enter it: async with sessions.begin() as session: enqueue(session, job)"
        case _:
            return start + "enqueue takes Session, AsyncSession, scoped_session and async_scoped_session"


def _not_a_job(given: object) -> str:
    start = f"a Job is enqueued, and this is {_named(given)}; "
    match given:
        case Coroutine():
            given.close()  # else Python would warn as well that nobody awaited it
            return start + "calling a function runs it; make a job of it: enqueue(session, function.new(...))"
        case Session() | AsyncSession() | scoped_session() | async_scoped_session():
            return start + "the session comes first: enqueue(session, job)"
        case list() | tuple() | set() | frozenset():
            return start + "for several write enqueue_many(session, jobs)"
        case _ if hasattr(given, "new"):
            name = getattr(given, "__name__", type(given).__name__)
            return start + f"write enqueue(session, {name}.new(...))"
        case _ if isinstance(given, type):
            return start + f"put @worker() before the class, then write enqueue(session, {given.__name__}.new(...))"
        case _ if callable(given):
            name = getattr(given, "__name__", type(given).__name__)
            return start + f"put @job() before the function, then write enqueue(session, {name}.new(...))"
        case _:
            return start + "make one with the worker it is for: enqueue(session, SendWelcome.new({...}))"


def _named(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return articled(type(given).__name__)
