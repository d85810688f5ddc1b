"""`enqueue` and `enqueue_many`: asking for work inside a session's own transaction."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from oban_sa.errors import InvalidJob
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox.admission import ENQUEUED, MEMBER, check, plain
from oban_sa.outbox.outbox import Outbox
from oban_sa.outbox.sessions import AnySession, session_behind
from oban_sa.outbox.staged import Flow

J = TypeVar("J", bound=Job | Flow)


def enqueue(session: AnySession, job: J) -> J:
    """Stage `job` in `session` and return it; the session's next flush writes it, in the session's own transaction.

    A workflow is staged with all its members, and written with them.

    After the flush `job.id`, `state`, `inserted_at` and `scheduled_at` are set. Values in args and meta become JSON at
    once. Raises `InvalidArguments` for values JSON can't hold, `ReferenceOutsideSession` for a reference to an object
    that is not in this session, `InvalidJob` for a job that is stored already, `SessionEnded` in a listener to the
    session's commit or rollback; nothing was staged then. Where the session is closed without having written the job,
    other than by an error, a `JobNeverWritten` warns of it.
    """
    target = session if isinstance(session, Session) else session_behind(session)
    if isinstance(job, Flow):
        job.stage(target)
    else:
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


def enqueue_members(session: Session, jobs: list[Job]) -> None:
    """Stage jobs whose workflow or batch is staged with them; raises what `enqueue_many` raises."""
    _stage(session, jobs, numbered=True, written=MEMBER)


def _stage(session: Session, jobs: list[Job], *, numbered: bool = False, written: str = ENQUEUED) -> None:
    # Two lists, and no container for each job, which the garbage collector would look through again and again.
    plain_args: list[JSONDict | None] = []
    plain_metas: list[JSONDict | None] = []
    try:
        for job in jobs:
            check(job, session, written=written)
            loaded = vars(job)
            args, meta = loaded.get("args"), loaded.get("meta")
            plain_args.append(None if args is None else plain(args, "args", session))
            plain_metas.append(None if meta is None else plain(meta, "meta", session))
    except InvalidJob as refused:
        if numbered:
            refused.number(len(plain_metas))
        raise
    if len(jobs) > 1 and len({id(job) for job in jobs}) < len(jobs):
        raise InvalidJob("the same Job stands twice among those to enqueue; make a new one for each")
    for job, args, meta in zip(jobs, plain_args, plain_metas, strict=True):
        # Past the instrumentation, which costs more than all the rest: what has no row yet has no history.
        if args is not None:
            vars(job)["args"] = args
        if meta is not None:
            vars(job)["meta"] = meta
    if jobs:
        Outbox.stage(session, jobs)


def _listed(jobs: Any) -> list[Job]:
    if isinstance(jobs, Job):
        raise TypeError("enqueue_many takes several jobs; for one write enqueue(session, job)")
    if isinstance(jobs, AsyncIterable):
        raise TypeError("enqueue_many can't await; write [job async for job in jobs]")
    return list(jobs)
