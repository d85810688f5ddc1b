"""What a worker may be told beside its code, and what one job may be told beside its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, get_args

from oban_sa import callables, periods, values
from oban_sa.cronentry import CronEntry, workerless
from oban_sa.errors import InvalidJob, InvalidOption, nearest
from oban_sa.models import rules
from oban_sa.periods import Period
from oban_sa.states import JobState
from oban_sa.workers.borrowed import instead
from oban_sa.workers.versions import stamped

if TYPE_CHECKING:
    from oban_sa.models import Job
    from oban_sa.workers.registry import Registry

Executor: TypeAlias = Literal["loop", "thread", "process"]
"""Where code runs: on the event loop, in a thread, or in a pool of processes."""

CancelBy: TypeAlias = Literal["interrupt", "ask"]
"""What a cancellation does to running code: interrupt it, or only tell it, by `job.cancelled()`."""

OnMissing: TypeAlias = Literal["cancel", "raise", "none"]
"""What becomes of a job whose row is gone: it is cancelled, the attempt fails, or the worker gets None."""

PeriodOf: TypeAlias = "Period | Callable[[Job], Period]"
"""A span of time, or a function that says it for a job."""


CronOption: TypeAlias = str | CronEntry | Mapping[str, Any] | list[str | CronEntry | Mapping[str, Any]]
"""When a job of this worker is made by itself: an expression, an entry with options, or several."""


class WorkerOptions(TypedDict, total=False):
    """What `@worker(...)` and `@job(...)` take."""

    queue: str
    max_attempts: int
    priority: int
    tags: Iterable[str]
    meta: dict[str, Any]
    timeout: PeriodOf | None
    backoff: PeriodOf | None
    executor: Executor | None
    cancel: CancelBy
    cron: CronOption
    version: int
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] | None
    on_missing: OnMissing
    name: str | None
    aliases: Iterable[str]
    registry: Registry


class JobOptions(TypedDict, total=False):
    """What `.new(...)`, `.enqueue(...)` and `.options(...)` take: the keywords of `Job` except `args`."""

    id: int | None
    state: JobState
    queue: str
    attempt: int
    max_attempts: int
    priority: int
    meta: dict[str, Any] | None
    errors: list[dict[str, Any]] | None
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
    extra: dict[str, Any] | None


_WORKER_OPTIONS: Final = frozenset(WorkerOptions.__annotations__)
JOB_OPTIONS: Final = frozenset(JobOptions.__annotations__)
_USUAL: Final = ("queue", "priority", "max_attempts", "tags", "meta", "schedule_in", "scheduled_at")
"""Those that people write; the others are for whoever moves rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A worker's options, checked; raises `InvalidOption` for a value that can't be used.

    `timeout` and `backoff` are seconds, functions of the job, or None where the worker leaves them to the runner.
    """

    queue: str = "default"
    max_attempts: int = 20
    priority: int = 0
    tags: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    timeout: float | Callable[[Job], Period] | None = None
    backoff: float | Callable[[Job], Period] | None = None
    executor: Executor | None = None
    cancel: CancelBy = "interrupt"
    cron: tuple[CronEntry, ...] = ()
    version: int = 1
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
    on_missing: OnMissing = "cancel"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Options:
        """Return the options among `given`; what else `given` holds is for the registry."""
        read = {each.name: given[each.name] for each in fields(cls) if each.name in given}
        for name, check in _CHECKS.items():
            if name in read:
                try:
                    read[name] = check(read[name])
                except InvalidJob as error:  # the rules are those of a job, but here it is the worker that is wrong
                    raise InvalidOption(str(error)) from error
        return cls(**read)

    def for_job(self) -> dict[str, Any]:
        """Return the keywords with which every job of this worker is made."""
        given: dict[str, Any] = {
            "queue": self.queue,
            "max_attempts": self.max_attempts,
            "priority": self.priority,
        }
        if self.tags:
            given["tags"] = self.tags
        if self.meta or self.version > 1:
            # A copy: each job may change its own.
            given["meta"] = stamped(values.to_json(self.meta, where="meta"), self.version)
        return given


def refuse_unknown(given: Mapping[str, Any], *, of: str) -> None:
    """Raise `InvalidOption` where `given` holds what no worker can be told; `of` is the decorator's name."""
    for name in given:
        if name in _WORKER_OPTIONS:
            continue
        if name in JOB_OPTIONS:
            where = f".options({name}=...).new(...)" if of == "@job" else f".new(..., {name}=...)"
            raise InvalidOption(f"{of} takes no {name!r}: it belongs to one job; write {where}")
        where = "where a job is made: " + (".options(...).new(...)" if of == "@job" else ".new(..., ...)")
        hint = instead(name, _WORKER_OPTIONS, elsewhere=JOB_OPTIONS, where=where)
        raise InvalidOption(f"{of} has no option {name!r}{hint or _listed(_WORKER_OPTIONS)}")


def refuse_unknown_for_job(given: Mapping[str, Any], *, of: str) -> None:
    """Raise `InvalidOption` where `given` holds what no job can be told; `of` is how the call is written."""
    for name in given:
        if name in JOB_OPTIONS:
            continue
        if name in _WORKER_OPTIONS:
            raise InvalidOption(f"{of} takes no {name!r}: it belongs to the worker; write it where that is decorated")
        hint = instead(name, JOB_OPTIONS, elsewhere=_WORKER_OPTIONS, where="where the worker is decorated")
        raise InvalidOption(f"{of} has no option {name!r}{hint or _listed(_USUAL)}")


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidOption(f"tags must be a list of strings, got {value!r}; write tags=[{value!r}]")
    return tuple(rules.tags(value))


def _meta(value: object) -> dict[str, Any]:
    plain: dict[str, Any] = values.to_json(rules.json_object(value, "meta"), where="meta")
    if values.has_references(plain):
        raise InvalidOption("meta of a worker can't hold ref(...): its jobs belong to many sessions")
    return plain


def _timeout(value: object) -> float | Callable[[Job], Period] | None:
    amount = _period(value, what="timeout")
    if amount == 0:
        raise InvalidOption("timeout of 0 would end every attempt at once; leave it out for none")
    return amount


def _backoff(value: object) -> float | Callable[[Job], Period] | None:
    return _period(value, what="backoff")


def _period(value: Any, *, what: str) -> float | Callable[[Job], Period] | None:
    if value is None:
        return None
    if callable(value):
        return _asked(value, what=what)
    try:
        return periods.seconds(value)
    except InvalidOption as error:
        raise type(error)(f"{what}: {error}") from None


def _asked(function: Any, *, what: str) -> Callable[[Job], Period]:
    """Accept a function that says a span of time for a job."""
    name = callables.named(function)
    example = f"{what}=lambda job: 60 * job.attempt"
    if inspect.isclass(function):
        raise InvalidOption(f"{what} is the class {name}; give a span of time, or a function that says it: {example}")
    if callables.is_async(function):
        raise InvalidOption(f"{what} is asked between attempts, and {name} is async; write `def`, or {example}")
    if callables.yields(function):
        raise InvalidOption(f"{what} is one span of time, and {name} yields; return it: {example}")
    if not callables.takes(function, 1):
        raise InvalidOption(f"{what} is asked with one job, which {name} doesn't take; write for example {example}")
    return function  # type: ignore[no-any-return]


def _executor(value: object) -> Executor | None:
    if value is None or value in get_args(Executor):
        return value  # type: ignore[return-value]
    choices = get_args(Executor)
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise InvalidOption(f"executor {value!r} is unknown{hint or _listed(choices)}")


def _version(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOption(f"version is a whole number from 1, not {value!r}")
    return value


def _upgrade(value: object) -> Any:
    if value is not None and not callable(value):
        raise InvalidOption(f"upgrade is a function of args and their version, not {value!r}")
    return value


def _on_missing(value: object) -> OnMissing:
    choices = get_args(OnMissing)
    if value in choices:
        return value  # type: ignore[return-value]
    if value is None:
        raise InvalidOption('on_missing is a text; for None in place of a row that is gone write on_missing="none"')
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise InvalidOption(f"on_missing {value!r} is unknown{hint or _listed(choices)}")


def _cancel(value: object) -> CancelBy:
    choices = get_args(CancelBy)
    if value in choices:
        return value  # type: ignore[return-value]
    hint = nearest(value, choices) if isinstance(value, str) else ""
    raise InvalidOption(f"cancel {value!r} is unknown{hint or _listed(choices)}")


def _listed(choices: Iterable[str]) -> str:
    return f"; there are {', '.join(sorted(choices))}"


_CHECKS: Final[dict[str, Callable[[Any], Any]]] = {
    "queue": lambda value: rules.name(value, "queue"),
    "max_attempts": rules.max_attempts,
    "priority": rules.priority,
    "tags": _tags,
    "meta": _meta,
    "timeout": _timeout,
    "backoff": _backoff,
    "executor": _executor,
    "cancel": _cancel,
    "cron": workerless,
    "version": _version,
    "upgrade": _upgrade,
    "on_missing": _on_missing,
}
