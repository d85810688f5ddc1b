"""One entry of a crontab: when, which worker, and what its jobs are told."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast, get_args

from oban_sa.describe.choices import choice
from oban_sa.errors import InvalidArguments, InvalidCron, InvalidOption, nearest
from oban_sa.jobs import values
from oban_sa.jobs.references import Reference
from oban_sa.jobs.values import JSONDict
from oban_sa.schedule import cron

CatchUp: TypeAlias = Literal["none", "last", "all"]
"""What becomes of ticks that were missed while no node was leading."""

_CATCH_UP: Final[tuple[CatchUp, ...]] = get_args(CatchUp)

MOST_CAUGHT_UP: Final = 1000
"""Ticks of one entry that are ever made up for; older ones are dropped."""

LONGEST_NAME: Final = 127


@dataclass(frozen=True, slots=True)
class Span:
    """The time later than `after` and not later than `until`."""

    after: datetime
    until: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.after < moment <= self.until


class Due(NamedTuple):
    """Ticks that are to become jobs, oldest first, and the newest tick of all, after which nothing is left to do."""

    ticks: tuple[datetime, ...]
    until: datetime | None


@dataclass(frozen=True, slots=True, eq=False)
class CronEntry:
    """A job of `worker` at every moment of `expression`; raises InvalidCron or InvalidOption where that makes no sense.

    `worker` is the name it is registered under, or what was decorated; left out where the entry is given to
    `@worker(cron=...)` itself. `name` identifies the entry in the database and in `meta["cron_name"]`. Without one it
    is derived from expression, time zone, worker and args once the worker's name is known, so that changing one of
    these makes another entry. Options left at None are the worker's own; `meta` is added to the worker's. With
    `overlap=False` a tick is skipped while the job of the tick before is unfinished. An expression that restricts both
    the day of month and the day of week needs `days`: "either" will do, or "both" have to match.
    """

    expression: str
    worker: Any = None
    name: str = ""
    timezone: str = "Etc/UTC"
    args: Mapping[str, object] = field(default_factory=JSONDict)
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: Iterable[str] | None = None
    meta: Mapping[str, object] = field(default_factory=JSONDict)
    overlap: bool = True
    days: cron.Days | None = None
    catch_up: CatchUp = "none"
    schedule: cron.Schedule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._set("schedule", cron.parse(self.expression, timezone=self.timezone, days=self.days))
        if self.worker is not None and isinstance(self.worker, str) and not self.worker.strip():
            raise InvalidOption(f"cron {self.expression!r} has a blank worker; write the name it is registered under")
        for option in ("args", "meta"):
            self._set(option, self._object(option))
        choice(self.catch_up, _CATCH_UP, what=f"cron {self.expression!r}: catch_up")
        if not isinstance(cast("object", self.overlap), bool):
            raise InvalidOption(f"cron {self.expression!r}: overlap is True or False, not {self.overlap!r}")
        if not isinstance(cast("object", self.name), str) or len(self.name) > LONGEST_NAME or "\0" in self.name:
            raise InvalidOption(
                f"cron {self.expression!r}: name is a text of at most {LONGEST_NAME} characters, not {self.name!r:.80}"
            )
        if not self.name.strip() and isinstance(self.worker, str):
            self._set("name", self._derived())

    def __str__(self) -> str:
        return f"{self.expression} {self.worker}"

    def of(self, worker: object) -> CronEntry:
        """Return the same entry for `worker`."""
        return replace(self, worker=worker)

    def options(self) -> dict[str, Any]:
        """Return the keywords of a job that this entry decides rather than the worker, without args and meta."""
        named = {"queue": self.queue, "priority": self.priority, "max_attempts": self.max_attempts, "tags": self.tags}
        return {name: value for name, value in named.items() if value is not None}

    def meta_at(self, moment: datetime, meta: Mapping[str, object] | None = None) -> JSONDict:
        """Return the meta of the job of the tick at `moment`: the worker's own, the entry's, and whose tick it is."""
        return {
            **(meta or {}),
            **self.meta,
            "cron": True,
            "cron_at": moment.isoformat(),
            "cron_expr": self.expression,
            "cron_name": self.name,
            "cron_tz": self.timezone,
        }

    def due(self, *, after: datetime, now: datetime, missed: Span) -> Due:
        """Return what is to be done about the ticks later than `after` and not later than `now`.

        Those within `missed` fell into a time without a leader: `catch_up` decides about them. At most MOST_CAUGHT_UP
        ticks, the newest, become jobs; without overlap one, for its job would keep the others from being made.
        """
        limit = MOST_CAUGHT_UP if self.overlap else 1
        ticks: list[datetime] = []
        tick = newest = self._tick_until(now)
        while tick is not None and tick > after and len(ticks) < limit:
            if tick not in missed or self.catch_up == "all":
                ticks.append(tick)
                tick = self.schedule.previous_before(tick)
                continue
            if self.catch_up == "last" and not ticks:
                ticks.append(tick)
            tick = self._tick_until(missed.after)
        return Due(tuple(reversed(ticks)), newest if newest is not None and newest > after else None)

    def _tick_until(self, moment: datetime) -> datetime | None:
        return self.schedule.previous_before(moment + timedelta(microseconds=1))

    def _object(self, option: str) -> JSONDict:
        value: object = getattr(self, option)
        if not isinstance(value, Mapping):
            raise InvalidOption(f"cron {self.expression!r}: {option} is a dict, not {value!r:.80}")
        try:
            plain: JSONDict = values.to_json(value, where=option, mapped=Reference)
        except InvalidArguments as error:
            raise InvalidOption(f"cron {self.expression!r}: {error}") from error
        if values.has_references(plain):
            raise InvalidOption(
                f"cron {self.expression!r}: {option} can't hold ref(...) or a mapped object, there is no session to "
                f"read it in; write its key"
            )
        return plain

    def _derived(self) -> str:
        worker = (
            self.worker if isinstance(self.worker, str) else getattr(self.worker, "__qualname__", repr(self.worker))
        )
        identity = [self.schedule.canonical, self.timezone, worker, sorted(self.args.items())]
        return hashlib.sha256(values.dumps(identity).encode()).hexdigest()[:8]

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)


Written: TypeAlias = CronEntry | Mapping[str, object] | tuple[object, ...]
"""How an entry may be written: itself, a table, or a tuple of expression, worker and options."""


def entries(given: object) -> tuple[CronEntry, ...]:
    """Return the entries that are written as `Runner(crontab=...)` takes them: one, or a list of them.

    Each is a CronEntry, a table such as `{"expression": "@daily", "worker": "myapp.jobs.Report", "timezone":
    "Europe/Berlin"}`, or a tuple of expression, worker and options. Raises InvalidOption or InvalidCron.
    """
    found = _entries(given)
    for entry in found:
        if entry.worker is None:
            raise InvalidOption(
                f"cron {entry.expression!r} has no worker; write CronEntry({entry.expression!r}, MyWorker)"
            )
    return found


def workerless(given: object) -> tuple[CronEntry, ...]:
    """Return the entries that are written as `@worker(cron=...)` takes them: one, or a list of them.

    Each is an expression, a table or a CronEntry, without a worker. Raises InvalidOption or InvalidCron.
    """
    found = _entries(given)
    for entry in found:
        if entry.worker is not None:
            raise InvalidOption(
                f"cron {entry.expression!r} stands on a worker and names {entry.worker!r}; leave its worker out"
            )
    return found


def _entries(given: object) -> tuple[CronEntry, ...]:
    if given is None:
        return ()
    if isinstance(given, list):
        return tuple(entry for each in cast("list[object]", given) for entry in _entries(each))
    return (_entry(given),)


_SYNONYMS: Final = {"expr": "expression", "tz": "timezone"}
_OPTIONS: Final = tuple(each.name for each in fields(CronEntry) if each.init)


def _entry(given: object) -> CronEntry:
    if isinstance(given, CronEntry):
        return given
    if isinstance(given, str):
        return CronEntry(given)
    if isinstance(given, Mapping):
        return _from_table(cast("Mapping[object, object]", given))
    if isinstance(given, tuple):
        row = tuple(cast("Iterable[object]", given))
        options: object = row[2] if len(row) == 3 else {}
        if len(row) in (2, 3) and isinstance(options, Mapping):
            return _from_table({**cast("Mapping[object, object]", options), "expression": row[0], "worker": row[1]})
    raise InvalidCron(f'{given!r:.80} is no entry of a crontab; write "0 9 * * MON-FRI" or CronEntry("@daily", ...)')


def _from_table(table: Mapping[object, object]) -> CronEntry:
    options: dict[str, Any] = {_SYNONYMS.get(str(name), str(name)): value for name, value in table.items()}
    for name in options:
        if name not in _OPTIONS:
            raise InvalidOption(f"an entry of a crontab has no option {name!r}{nearest(name, _OPTIONS)}")
    if "expression" not in options:
        raise InvalidCron(f"an entry of a crontab needs an expression, and {options!r:.80} has none")
    return CronEntry(**options)
