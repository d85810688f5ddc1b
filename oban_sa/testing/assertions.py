"""Questions about the jobs that a session can see, those of its own open transaction among them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, TypedDict, TypeVar, Unpack, overload

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from oban_sa.errors import InvalidOption, nearest
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox.sessions import unscoped
from oban_sa.schedule.periods import Period
from oban_sa.sql.expressions import CLOCK
from oban_sa.testing.criteria import Criteria

SHOWN: Final = 5
"""Jobs that a failure shows, the nearest first."""

WAITING: Final = (JobState.AVAILABLE, JobState.SCHEDULED, JobState.SUSPENDED)
"""The states of jobs that count as enqueued unless others are asked for: those that wait for their first attempt."""

Awaited: TypeAlias = AsyncSession | async_scoped_session[Any]
Direct: TypeAlias = Session | scoped_session[Any]
T = TypeVar("T")


class Wanted(TypedDict, total=False):
    """What jobs can be asked for by; what is left out does not matter.

    `worker` is a worker or a registered name; of `args` and `meta` only what is given is compared, at every depth;
    `tags` are those the job has at least; `scheduled_at` and `schedule_in` may be a second off. `state` is one state or
    several, instead of those in which jobs wait.
    """

    worker: object
    args: object
    meta: object
    queue: str
    priority: int
    max_attempts: int
    tags: Iterable[str]
    scheduled_at: datetime
    schedule_in: Period
    state: str | Iterable[str]


@overload
def all_enqueued(session: Direct, **wanted: Unpack[Wanted]) -> list[Job]: ...
@overload
def all_enqueued(session: Awaited, **wanted: Unpack[Wanted]) -> Coroutine[object, None, list[Job]]: ...
def all_enqueued(session: Direct | Awaited, **wanted: Unpack[Wanted]) -> list[Job] | Coroutine[object, None, list[Job]]:
    """Return the enqueued jobs that `wanted` describes, the newest first; of an AsyncSession it is awaited.

    What the session has pending is flushed. Raises `InvalidOption` for what jobs can't be asked for by.
    """
    criteria, states = _read(wanted)

    def answer(session: Session) -> list[Job]:
        jobs, wanted = _looked(session, states, criteria)
        return [job for job in jobs if not wanted.differences(job)]

    return _asked(session, answer)


@overload
def assert_enqueued(session: Direct, *, count: int | None = None, **wanted: Unpack[Wanted]) -> list[Job]: ...
@overload
def assert_enqueued(
    session: Awaited, *, count: int | None = None, **wanted: Unpack[Wanted]
) -> Coroutine[object, None, list[Job]]: ...
def assert_enqueued(
    session: Direct | Awaited, *, count: int | None = None, **wanted: Unpack[Wanted]
) -> list[Job] | Coroutine[object, None, list[Job]]:
    """Return the enqueued jobs that `wanted` describes: `count` of them, or else at least one; else AssertionError.

    The message shows what was enqueued instead, and in what it differs. Of an AsyncSession it is awaited.
    """
    criteria, states = _read(wanted)

    def answer(session: Session) -> list[Job]:
        jobs, wanted = _looked(session, states, criteria)
        found = [job for job in jobs if not wanted.differences(job)]
        if (count is None and found) or len(found) == count:
            return found
        expected = "a job" if count is None else f"{count} {'job' if count == 1 else 'jobs'}"
        seen = f"{len(found)} of {len(jobs)}" if found else "none"
        raise AssertionError(f"expected {expected} with {wanted} to be enqueued, found {seen}{_shown(jobs, wanted)}")

    return _asked(session, answer)


@overload
def refute_enqueued(session: Direct, **wanted: Unpack[Wanted]) -> None: ...
@overload
def refute_enqueued(session: Awaited, **wanted: Unpack[Wanted]) -> Coroutine[object, None, None]: ...
def refute_enqueued(session: Direct | Awaited, **wanted: Unpack[Wanted]) -> Coroutine[object, None, None] | None:
    """Raise AssertionError where a job that `wanted` describes is enqueued; of an AsyncSession it is awaited."""
    criteria, states = _read(wanted)

    def answer(session: Session) -> None:
        jobs, wanted = _looked(session, states, criteria)
        found = [job for job in jobs if not wanted.differences(job)]
        if found:
            raise AssertionError(f"expected no job with {wanted} to be enqueued{_shown(found, Criteria({}))}")

    return _asked(session, answer)


def _read(wanted: Wanted) -> tuple[Criteria, tuple[JobState, ...]]:
    known = Wanted.__annotations__
    for name in wanted:
        if name not in known:
            raise InvalidOption(f"jobs can't be asked for by {name!r}{nearest(name, known)}; by {', '.join(known)}")
    state = wanted.pop("state", None)
    states = WAITING if state is None else [state] if isinstance(state, str) else list(state)
    return Criteria.read(wanted), tuple(JobState(each) for each in states)


def _asked(session: object, answer: Callable[[Session], T]) -> T | Coroutine[object, None, T]:
    found = unscoped(session)
    if isinstance(found, AsyncSession):
        return found.run_sync(answer)
    if isinstance(found, Session):
        return answer(found)
    raise TypeError(f"the session comes first, and this is {session!r}; write assert_enqueued(session, worker=...)")


def _looked(session: Session, states: tuple[JobState, ...], criteria: Criteria) -> tuple[list[Job], Criteria]:
    """Return the jobs there are, and what is wanted of them by the clock that their spans were counted by."""
    jobs = _jobs(session, states)
    if criteria.span is not None:
        bind = {"bind_arguments": {"mapper": Job.__mapper__}}
        criteria = criteria.at(session.scalars(CLOCK, **bind).one().replace(tzinfo=UTC))
    return jobs, criteria


def _jobs(session: Session, states: tuple[JobState, ...]) -> list[Job]:
    session.flush()
    query = select(Job).where(Job.state.in_(states)).order_by(Job.id.desc())
    # What others did to the rows meanwhile is seen too.
    return list(session.scalars(query, execution_options={"populate_existing": True}))


def _shown(jobs: list[Job], criteria: Criteria) -> str:
    if not jobs:
        return "; nothing is enqueued"
    ordered = sorted(jobs, key=lambda job: len(criteria.differences(job)))
    lines: list[str] = []
    for job in ordered[:SHOWN]:
        lines.append(f"  {job}")
        lines += [f"    {difference}" for difference in criteria.differences(job)]
    if len(jobs) > SHOWN:
        lines.append(f"  and {len(jobs) - SHOWN} more")
    return "; enqueued:\n" + "\n".join(lines)
