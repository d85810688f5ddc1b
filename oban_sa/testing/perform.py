"""`perform_job`: a worker's code, run by itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, cast

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.answers import Answer, raised, refuse_unawaited
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.outbox.sessions import unscoped
from oban_sa.schedule import clock
from oban_sa.testing.dependencies import GivenDeps, give
from oban_sa.testing.journals import Performing, by_name
from oban_sa.workers import Definition, Registry, definition_of, running
from oban_sa.workers import registry as default_registry
from oban_sa.workers.current import attempting
from oban_sa.workers.function_body import FunctionBody
from oban_sa.workers.keywords import refuse_unknown_for_job
from oban_sa.workers.loop import has_loop

_ids: Final = itertools.count(1)


def perform_job(
    worker_or_job: object,
    args: object = None,
    /,
    *,
    session: object = None,
    registry: Registry | None = None,
    journal: Mapping[str, object] | None = None,
    signals: Mapping[str, object] | None = None,
    deps: Mapping[str, object] | None = None,
    context: Mapping[str, object] | None = None,
    **options: object,
) -> Any:
    """Run a worker's code here and now, as its first attempt, and return its answer or raise what it raised.

    Takes a worker, args (for a `@job` function a dict of its arguments by name) and options of the job such as
    `attempt=3` or `meta={...}`; or a job alone. From a coroutine it is awaited, elsewhere it answers at once. The code
    gets what a runner would give it: args that went through JSON, a job as it is loaded from its row, `current_job()`,
    and `session` where it takes one, which is flushed before and after, and neither committed nor rolled back. There is
    no timeout and no retry; nothing is written of the job itself.

    `deps` is what others in its workflow have recorded, by name, for `deps()` and for arguments that are results;
    `context` is that of the workflow. Steps whose results stand in `journal`, by their names, are not run; `wait_for`
    returns what `signals` has, by name, the second of one `name#2` where that is given, and else None as when its time
    is up, or raises `Suspended` where it has none; `sleep` returns at once.

    Raises `InvalidArguments` for args that don't fit, `InvalidOption` for an unknown option, `WorkerNotFound` for a job
    without a registered worker.
    """
    definition, job = _read(worker_or_job, args, options, registry or default_registry)
    given = None if deps is None and context is None else (by_name(deps, "deps"), context)
    taken = _session(definition, unscoped(session))
    told = {"journal": by_name(journal, "journal"), "signals": by_name(signals, "signals")}
    performing = _Performing(definition, job, taken, deps=given, **told)
    if has_loop():
        return performing.on_loop()
    if definition.executor == "loop":
        return asyncio.run(performing.on_loop())
    return performing.here()


class _Performing:
    def __init__(
        self,
        definition: Definition,
        job: Job,
        session: AsyncSession | Session | None,
        *,
        deps: GivenDeps | None,
        journal: Mapping[str, object],
        signals: Mapping[str, object],
    ) -> None:
        self._journal = journal
        self._signals = signals
        self._definition = definition
        self._given = job
        self._session = session
        self._deps = deps

    @cached_property
    def _job(self) -> Job:
        """The job as it is fetched; made once the objects that it refers to have their keys."""
        job = _as_fetched(self._given)
        if self._deps is not None:
            give(job, *self._deps)
        return job

    @cached_property
    def _attempt(self) -> Performing:
        is_of_many = self._definition.options.chunk is not None
        return Performing(self._job, self._journal, self._signals, is_of_many=is_of_many)

    def here(self, session: Session | None = None) -> object:
        """Run synchronous code in this thread."""
        given = session if session is not None else self._session
        if isinstance(given, Session):
            given.flush()
        with running(self._job), attempting(self._attempt):
            try:
                answer = self._definition.call(self._job, given if self._definition.session else None)
            except Answer as said:
                answer = raised(said)
            refuse_unawaited(answer)
            self._attempt.journal.refuse_unawaited()
            if isinstance(given, Session):
                given.flush()
            return answer

    async def on_loop(self) -> object:
        """Run code of any kind from the loop, synchronous code in a thread as a runner does."""
        if isinstance(self._session, AsyncSession):
            await self._session.flush()
        if self._definition.executor != "loop":
            if isinstance(self._session, AsyncSession):
                return await self._session.run_sync(self.here)
            return await asyncio.to_thread(self.here)
        with running(self._job), attempting(self._attempt):
            try:
                answer = await self._definition.call(self._job, self._session if self._definition.session else None)
            except Answer as said:
                answer = raised(said)
            refuse_unawaited(answer)
            self._attempt.journal.refuse_unawaited()
            if isinstance(self._session, AsyncSession):
                await self._session.flush()
            return answer


def _read(target: object, args: object, options: Mapping[str, object], registry: Registry) -> tuple[Definition, Job]:
    if isinstance(target, Job):
        if args is not None or options:
            raise InvalidOption("a Job has its args and options already; write perform_job(job)")
        return registry.find(target.worker), target
    definition = definition_of(target)
    if isinstance(target, type):
        return definition, target.new(args, **options)  # type: ignore[attr-defined]
    name = definition.body.target.__name__
    refuse_unknown_for_job(options, of=f"perform_job({name})")
    given: object = args if args is not None else {}
    if not isinstance(given, Mapping):
        raise InvalidArguments(
            f"the args of {name}() are given by name, as a dict, not {args!r}; or write perform_job({name}.new(...))"
        )
    return definition, definition.job(
        cast("FunctionBody", definition.body).encode(cast("Mapping[str, object]", given)), options
    )


def _as_fetched(job: Job) -> Job:
    """Return the job as a runner that just fetched it would have it."""
    now = clock.now()
    loaded = dict(vars(job))
    plain = {column: _through_json(loaded.get(column) or {}, column) for column in ("args", "meta")}
    fetched = Job.from_row(
        {
            **{column.key: loaded.get(column.key) for column in Job.__table__.columns},
            **plain,
            "id": loaded.get("id") or next(_ids),
            "state": JobState.EXECUTING.value,
            "attempt": max(job.attempt, 1),
            "inserted_at": loaded.get("inserted_at") or now,
            "scheduled_at": loaded.get("scheduled_at") or now,
            "attempted_at": loaded.get("attempted_at") or now,
        }
    )
    if job.cancelled():
        fetched.request_cancel()
    return fetched


def _through_json(value: object, where: str) -> object:
    plain = values.to_json(value, where=where)
    if values.has_references(plain):
        plain = values.replace_references(plain, references.final, where=where)
    return plain


def _session(definition: Definition, given: object) -> AsyncSession | Session | None:
    """Return the session that was given; raises for one that the code can't be given."""
    what, kind = definition.body.what, definition.session
    if given is not None and not isinstance(given, (Session, AsyncSession)):
        raise TypeError(f"session must be a Session or an AsyncSession, got {given!r}")
    if kind is not None and given is None:
        raise InvalidOption(f"{what} takes a session; give it one: perform_job(..., session=session)")
    if kind == "async" and isinstance(given, Session):
        raise InvalidOption(f"{what} takes an AsyncSession, and this is a Session")
    if kind == "sync" and isinstance(given, AsyncSession) and not has_loop():
        raise InvalidOption(f"{what} takes a Session, and an AsyncSession gives one only in async code; give a Session")
    return given
