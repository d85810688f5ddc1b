"""Admission: what every new job passes on its way into the table, whichever door it comes through.

Three steps, in this order:

1. `check` refuses what can't be enqueued, where the program enqueues it.
2. `admit` is the last look at a job before its row is made: hooks see it, and may still change it.
3. `plain` makes JSON of its args and meta.

How each door takes them:

- *flush*: `enqueue` checks the job and makes JSON of its values, so that a mistake is refused in the line that makes
  it. The flush admits every new job, also those that came by `session.add` or a cascade and were never checked: a
  session may store a job as it is, finished for instance. It makes JSON once more of what is not flat, as a hook or
  the program may have changed it since. `testing.inline` runs what a flush has written.
- *statement*, `Oban.enqueue`, and `Oban.enqueue_many` in a session: all three for each job, before the statement is
  sent. What a statement can't write is flushed, and admitted there.
- *COPY*, `Oban.enqueue_many`: all three for each job as it is streamed. Jobs that rows of COPY can't hold are flushed,
  and admitted there.
- *cron*: the scheduler makes the job itself, so there is nothing to check. It admits each job of a tick.
- *select*, `enqueue_select`: its rows become jobs inside the database, so no `Job` exists that a hook, which is Python
  code, could see. What the jobs have in common is looked at by the same rules and by `plain`; what differs from row to
  row is an expression. So what is to hold for jobs of every door needs a form in SQL there, and a hook has none.

Jobs are admitted one by one: a flush finds those of cascades while it writes, and a stream may have no end.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.orm.attributes import instance_state

from oban_sa import hooks
from oban_sa.errors import InvalidArguments, InvalidJob
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.states import FINAL, JobState
from oban_sa.jobs.values import has_references, is_flat, to_json
from oban_sa.models import Job, validation
from oban_sa.outbox import references
from oban_sa.outbox.sessions import named
from oban_sa.outbox.staged import Flow

_STARTED: Final = FINAL | {JobState.EXECUTING}
_NOT_AS_IT_IS: Final = _STARTED | {JobState.SUSPENDED}
"""States of which some or all jobs can't be enqueued."""

MEMBER: Final = "{}"
"""How a job is given as a member of a workflow or a batch, or as its callback."""


ENQUEUED: Final = "enqueue(session, {})"
"""How a job is enqueued, where `{}` stands for it."""


def check(job: Any, session: Session | None = None, *, written: str = ENQUEUED) -> None:
    """Accept a job that may be enqueued: a new one, in a state from which it can be started.

    `written` is how the job is given, for what to write instead, as in `ENQUEUED`. `session` is the one that
    will write it, in which it may be pending; None where no session will. Raises `TypeError` for what is no job, and
    `InvalidJob` for one that is stored already, was started, or waits in a session while none is to write it. A member
    that waits for others is accepted only as such, for by itself it would wait for ever.
    """
    if not isinstance(job, Job):
        raise TypeError(f"a Job is enqueued, and this is {named(job)}; {_instead(job, written)}")
    state = instance_state(job)
    if state.key is not None:
        raise InvalidJob(f"{job} is stored already; retry that one, or enqueue a new one made of the same args")
    if session is None and state.session_id is not None:
        raise InvalidJob(f"{job} is in a session, which will write it; enqueue a new one made of the same args")
    if (stands := vars(job).get("state")) in _NOT_AS_IT_IS:
        if stands in _STARTED:
            raise InvalidJob(f"a job that is {job.state} can't be enqueued; session.add(job) stores one as it is")
        meta = vars(job).get("meta")
        if written != MEMBER and isinstance(meta, dict) and LANE in meta:
            raise InvalidJob(
                f"{job} waits for other members of its workflow, and alone would wait for ever; enqueue the workflow, "
                "or a new job made of the same args"
            )


def admit(job: Job) -> None:
    """Show a job that is about to be written to every hook; raises what a hook raises."""
    if hooks.BEFORE_INSERT.hooks:
        hooks.writing(job)


def plain(value: Any, where: str, session: Session | None = None) -> dict[str, object]:
    """Return args or meta, whichever `where` says, as plain JSON values in new containers; `{}` for None.

    References are left in place where a `session` will resolve them, and checked. Raises `InvalidJob` for what is no
    dict, `InvalidArguments` for values that JSON can't hold and for references without a session, and
    `ReferenceOutsideSession` for those to an object that is not in the session.
    """
    if is_flat(value):
        return {} if value is None else value.copy()
    written: dict[str, object] = to_json(validation.json_object(value, where), where=where)
    if has_references(written):
        if session is None:
            raise InvalidArguments(
                f"{where} holds ref(...), or an object that has no key yet, which only a session can write; "
                f"use enqueue_many(session, jobs)",
                path=where,
            )
        references.check(session, written, where=where)
    return written


def _instead(given: object, written: str) -> str:
    match given:
        case Coroutine():
            given.close()  # else Python would warn as well that it was never awaited
            return f"calling a function runs it; make a job of it: {written.format('function.new(...)')}"
        case Session() | AsyncSession() | scoped_session() | async_scoped_session():
            return "the session comes first: enqueue(session, job)"
        case Flow():
            if written == MEMBER:
                return "for a workflow in another one write flow.add_workflow(name, workflow)"
            return "write enqueue(session, workflow), one call for each"
        case list() | tuple() | set() | frozenset():
            if written == MEMBER:
                return "for several in a workflow write flow.add_many(name, jobs)"
            return "for several write enqueue_many(session, jobs)"
        case _ if isinstance(getattr(given, "job", None), Job):
            return "a member is written with its workflow: enqueue(session, workflow)"
        case _ if hasattr(given, "new"):
            name = getattr(given, "__name__", type(given).__name__)
            return f"write {written.format(f'{name}.new(...)')}"
        case _ if isinstance(given, type):
            return f"put @worker() before the class, then write {written.format(f'{given.__name__}.new(...)')}"
        case _ if callable(given):
            name = getattr(given, "__name__", type(given).__name__)
            return f"put @job() before the function, then write {written.format(f'{name}.new(...)')}"
        case _:
            return f"make one with the worker it is for: {written.format('SendWelcome.new({...})')}"
