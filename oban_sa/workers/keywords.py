"""The keywords of `@worker`, `@job`, `.new` and `.options`, and what to write instead of an unknown one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypedDict

from oban_sa.arguments.load import OnMissing
from oban_sa.arguments.versions import Upgrade
from oban_sa.errors import InvalidOption
from oban_sa.jobs.keys import OnFailure
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.jobs.values import JSONDict
from oban_sa.schedule.periods import Period
from oban_sa.workers.keys import KeyOf
from oban_sa.workers.options import CancelBy, CronOption, Executor, PeriodOf
from oban_sa.workers.other_queues import instead
from oban_sa.workers.registry import Registry

if TYPE_CHECKING:
    from oban_sa.workers.chunk import Chunk


class WorkerOptions(TypedDict, total=False):
    """What `@worker(...)` and `@job(...)` take."""

    queue: str
    max_attempts: int
    priority: int
    tags: Iterable[str]
    meta: JSONDict
    timeout: PeriodOf | None
    backoff: PeriodOf | None
    executor: Executor | None
    cancel: CancelBy
    cron: CronOption
    version: int
    upgrade: Upgrade | None
    on_missing: OnMissing
    unique: bool | Unique | None
    partition: KeyOf | None
    sequence: KeyOf | None
    on_failure: OnFailure
    record: bool
    deadline: Period | None
    encrypt: bool
    redact: Iterable[str]
    chunk: Chunk | None
    name: str | None
    aliases: Iterable[str]
    registry: Registry


class JobOptions(TypedDict, total=False):
    """What `.new(...)`, `.enqueue(...)` and `.options(...)` take: the keywords of `Job` except `args`, and its keys."""

    id: int | None
    state: JobState
    queue: str
    attempt: int
    max_attempts: int
    priority: int
    meta: JSONDict | None
    errors: list[JSONDict] | None
    tags: Iterable[str] | None
    attempted_by: Iterable[str] | None
    inserted_at: datetime | None
    attempted_at: datetime | None
    cancelled_at: datetime | None
    completed_at: datetime | None
    discarded_at: datetime | None
    scheduled_at: datetime | None
    schedule_in: Period | None
    scheduled_in: Period | None
    unique: bool | Unique | None
    extra: JSONDict | None
    partition: KeyOf | None
    sequence: KeyOf | None
    on_failure: OnFailure
    deadline: Period | None


_WORKER_OPTIONS: Final = frozenset(WorkerOptions.__annotations__)
JOB_OPTIONS: Final = frozenset(JobOptions.__annotations__)
_USUAL: Final = ("queue", "priority", "max_attempts", "tags", "meta", "schedule_in", "scheduled_at")
"""Those that people write; the others are for programs that move rows."""


_OF_UNIQUE: Final = frozenset({"period", "fields", "keys", "meta_keys", "group", "states", "replace"})
_OF_QUEUE: Final[Mapping[str, str]] = {
    "by": 'by="partition"',
    "each": 'by="partition", each=5',
    "burst": 'by="partition", each=5, burst=True',
    "fair": 'by="partition", fair={"acme": 3}',
    **dict.fromkeys(("rate", "rate_limit", "throttle"), 'rate="60/minute"'),
    **dict.fromkeys(("global_limit", "limit", "concurrency", "max_concurrency"), "global_limit=50"),
}
"""Options of others that people look for at a worker."""


def _listed(choices: Iterable[str]) -> str:
    return f"; there are {', '.join(sorted(choices))}"


def _refuse_others(name: str, of: str) -> None:
    """Raise `InvalidOption` for an option of unique jobs or of queues."""
    if name in _OF_UNIQUE:
        raise InvalidOption(f"{of} has no option {name!r}; it belongs to unique jobs: unique=Unique({name}=...)")
    if name in _OF_QUEUE:
        raise InvalidOption(
            f"{of} has no option {name!r}; it belongs to the queue, for the jobs of all its workers: "
            f'queues={{"calls": Queue(20, {_OF_QUEUE[name]})}} at the runner'
        )


def refuse_unknown(given: Mapping[str, object], *, of: str) -> None:
    """Raise `InvalidOption` where `given` holds what no worker can be told; `of` is the decorator's name."""
    for name in given:
        if name in _WORKER_OPTIONS:
            continue
        if name in JOB_OPTIONS:
            where = f".options({name}=...).new(...)" if of == "@job" else f".new(..., {name}=...)"
            raise InvalidOption(f"{of} takes no {name!r}: it belongs to one job; write {where}")
        _refuse_others(name, of)
        where = "where a job is made: " + (".options(...).new(...)" if of == "@job" else ".new(..., ...)")
        hint = instead(name, _WORKER_OPTIONS, elsewhere=JOB_OPTIONS, where=where)
        raise InvalidOption(f"{of} has no option {name!r}{hint or _listed(_WORKER_OPTIONS)}")


def refuse_unknown_for_job(given: Mapping[str, object], *, of: str) -> None:
    """Raise `InvalidOption` where `given` holds what no job can be told; `of` is how the call is written."""
    for name in given:
        if name in JOB_OPTIONS:
            continue
        if name in _WORKER_OPTIONS:
            raise InvalidOption(f"{of} takes no {name!r}: it belongs to the worker; write it where that is decorated")
        _refuse_others(name, of)
        hint = instead(name, JOB_OPTIONS, elsewhere=_WORKER_OPTIONS, where="where the worker is decorated")
        raise InvalidOption(f"{of} has no option {name!r}{hint or _listed(_USUAL)}")
