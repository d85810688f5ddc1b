"""A worker's options, checked where the worker is decorated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from oban_sa.arguments.load import MISSING, OnMissing
from oban_sa.arguments.versions import Upgrade, stamped
from oban_sa.describe.choices import choice, is_whole
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.jobs import deadline, values
from oban_sa.jobs.cron_entry import CronEntry, workerless
from oban_sa.jobs.keys import OnFailure
from oban_sa.jobs.unique import Unique
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job, validation
from oban_sa.schedule import periods
from oban_sa.schedule.periods import Period
from oban_sa.workers.ask import asked
from oban_sa.workers.keys import Source, on_failure, source

if TYPE_CHECKING:
    from oban_sa.workers.chunk import Chunk

Executor: TypeAlias = Literal["loop", "thread", "process"]
"""Where code runs: on the event loop, in a thread, or in a pool of processes."""

EXECUTORS: Final[tuple[Executor, ...]] = get_args(Executor)

CancelBy: TypeAlias = Literal["interrupt", "ask"]
"""What a cancellation does to running code: interrupt it, or only tell it, by `job.cancelled()`."""

_CANCEL_BY: Final[tuple[CancelBy, ...]] = get_args(CancelBy)

PeriodOf: TypeAlias = Period | Callable[[Job], Period]
"""A span of time, or a function that says it for a job."""

CronOption: TypeAlias = str | CronEntry | Mapping[str, object] | list[str | CronEntry | Mapping[str, object]]
"""When a job of this worker is made by itself: an expression, an entry with options, or several."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A worker's options, checked; raises `InvalidOption` for a value that can't be used.

    `timeout` and `backoff` are seconds, functions of the job, or None where the worker leaves them to the runner.
    """

    queue: str = "default"
    max_attempts: int = 20
    priority: int = 0
    tags: tuple[str, ...] = ()
    meta: JSONDict = field(default_factory=JSONDict)
    timeout: float | Callable[[Job], Period] | None = None
    backoff: float | Callable[[Job], Period] | None = None
    executor: Executor | None = None
    cancel: CancelBy = "interrupt"
    cron: tuple[CronEntry, ...] = ()
    version: int = 1
    upgrade: Upgrade | None = None
    on_missing: OnMissing = "cancel"
    unique: Unique | None = None
    partition: Source | None = None
    sequence: Source | None = None
    on_failure: OnFailure | None = None
    record: bool = False
    deadline: float | None = None
    encrypt: bool = False
    redact: tuple[str, ...] = ()
    chunk: Chunk | None = None

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
        if self.unique is not None:
            given["unique"] = self.unique
        if self.meta or self.stamps:
            # A copy: each job may change its own.
            given["meta"] = {**values.to_json(self.meta, where="meta"), **self.stamps}
        return given

    @property
    def stamps(self) -> JSONDict:
        """What every job of this worker has in its meta, also one that is given another."""
        stamps = stamped({}, self.version)
        if self.deadline is not None:
            stamps[deadline.SPAN] = self.deadline
        if self.encrypt:
            stamps["encrypted"] = True
        if self.redact:
            stamps["redacted"] = list(self.redact)
        return stamps


def _tags(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        raise InvalidOption(f"tags must be a list of strings, got {value!r}; write tags=[{value!r}]")
    return tuple(validation.tags(value))


def _meta(value: object) -> JSONDict:
    plain: JSONDict = values.to_json(validation.json_object(value, "meta"), where="meta")
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
        example = f"{what}=lambda job: 60 * job.attempt"
        return asked(
            value,
            what=what,
            when="between attempts",
            one="one span of time",
            instead=f"give a span of time, or a function that says it: {example}",
            example=example,
        )
    try:
        return periods.seconds(value)
    except InvalidOption as error:
        raise type(error)(f"{what}: {error}") from None


def _executor(value: object) -> Executor | None:
    if value is None:
        return None
    executor: Executor = choice(value, EXECUTORS, what="executor")
    return executor


def _version(value: object) -> int:
    if not is_whole(value, 1):
        raise InvalidOption(f"version is a whole number from 1, not {value!r}")
    return value


def _upgrade(value: object) -> Any:
    if value is not None and not callable(value):
        raise InvalidOption(f"upgrade is a function of args and their version, not {value!r}")
    return value


def _on_missing(value: object) -> OnMissing:
    if value is None:
        raise InvalidOption('on_missing is a text; for None in place of a row that is gone write on_missing="none"')
    return choice(value, MISSING, what="on_missing")


def _record(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"record is True or False, not {value!r}; what is kept is what the code returns")
    return value


def _encrypt(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidOption(f"encrypt is True or False, not {value!r}; keys are given as Oban(..., keys=[...])")
    return value


def _redact(value: object) -> tuple[str, ...]:
    from oban_sa.jobs.redaction import names

    return names(value)


def _chunk(value: object) -> Chunk | None:
    from oban_sa.workers.chunk import Chunk  # which few programs need

    if value is not None and not isinstance(value, Chunk):
        raise InvalidOption(f'chunk is a Chunk, as Chunk(100, within="2 seconds"), not {value!r}')
    return value


def _cancel(value: object) -> CancelBy:
    return choice(value, _CANCEL_BY, what="cancel")


_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "queue": lambda value: validation.name(value, "queue"),
    "max_attempts": validation.max_attempts,
    "priority": validation.priority,
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
    "unique": Unique.of,
    "partition": lambda value: source(value, what="partition"),
    "sequence": lambda value: source(value, what="sequence"),
    "on_failure": on_failure,
    "record": _record,
    "deadline": deadline.seconds,
    "encrypt": _encrypt,
    "redact": _redact,
    "chunk": _chunk,
}
