"""Jobs whose worker this program does not know, as in a rolling deploy: they are left to programs that do."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, NamedTuple, cast

from oban_sa import telemetry
from oban_sa.errors import InvalidArguments, WorkerNotFound
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Attempt, Verdict, given_back
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.sql.unknown_workers import SEPARATOR
from oban_sa.workers.registry import Registry

logger = logging.getLogger("oban_sa.runner")

MARK: Final = "unknown_since"
"""The key in a job's meta; its value is when a program first did not know its worker, in ISO 8601, in UTC."""

REVIEW_EVERY: Final = 15.0
"""Seconds between questions whether others know these workers by now."""

MOST: Final = 100
"""Workers that a fetch excludes; the jobs of further ones are put off instead."""

PUT_OFF: Final = 60.0
"""Seconds, lengthened at random by half, for which such jobs are put off."""


class Named(NamedTuple):
    """A worker that is not known, or with a `version` one whose args of that version are not."""

    worker: str
    version: int | None = None

    @property
    def key(self) -> str:
        """How a fetch is told of it."""
        return self.worker if self.version is None else f"{self.worker}{SEPARATOR}{self.version}"

    def __str__(self) -> str:
        return self.worker if self.version is None else f"{self.worker} (args of version {self.version})"


@dataclass(slots=True)
class Entry:
    """`since` is when it was first met; `alone_since` the moment from which on no other program can know it."""

    since: datetime
    alone_since: datetime
    overdue: bool = False


def of_queues(
    *, after: float | None, registry: Registry, allow: Sequence[str], source: telemetry.Source
) -> Callable[[str], UnknownWorkers]:
    """Return what gives the unknown workers of a queue, the same each time; `after` is None where they never fail."""

    @cache
    def of(queue: str) -> UnknownWorkers:
        return UnknownWorkers(queue, after=after, registry=registry, allow=allow, source=source)

    return of


def parameters(names: Iterable[Named], overdue: Iterable[Named] = (), *, after: float = 0.0) -> dict[str, object]:
    """Return the parameters of `oban_sa.sql.unknown_workers.known`."""
    return {
        "unknown": [each.key for each in names],
        "overdue": [each.key for each in overdue],
        "unknown_after": after,
    }


class UnknownWorkers:
    """What the jobs of one queue name that this program does not know.

    Such a job is given back and spends no attempt, and no fetch of this node takes another one of its kind, so that
    programs which know it find it. Only a job that has been due for `after` seconds in which no program that works on
    the queue knew its worker fails like any other, with that in its errors.
    """

    def __init__(
        self, queue: str, *, after: float | None, registry: Registry, allow: Sequence[str], source: telemetry.Source
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something new for the producer's row."""
        self.gave_back = False
        """Whether jobs were given back that other nodes have not been told of."""
        self.review_at = math.inf
        """When others are to be asked again, by this machine's monotonic clock; never where all is known."""
        self._queue = queue
        self._after = _LONGEST if after is None else after
        self._registry = registry
        self._allow = tuple(allow)
        self._source = source
        self._every = min(REVIEW_EVERY, self._after / 4)
        self.entries: dict[Named, Entry] = {}
        """Where there are none, a fetch needs no condition."""

    def met(self, named: Named, attempt: Attempt, *, scheduled_at: datetime, error: Exception) -> Verdict | Exception:
        """Return the verdict on an attempt at a job that can't be done here; or what it fails with."""
        now = attempt.attempted_at or clock.now()
        first = min(_moment((attempt.meta or {}).get(MARK)) or now, now)
        entry = self.entries.get(named)
        put_off = entry is None and len(self.entries) >= MOST
        if entry is None and not put_off:
            entry = self.entries[named] = Entry(first, first)
            self.review_at = min(self.review_at, clock.monotonic() + self._every)
            self._tell(named, error)
            self.changed()
        overdue = now - first >= self._span if entry is None else entry.overdue
        if overdue and now - scheduled_at >= self._span:
            why = f"no program that works on queue {self._queue} has known it for {describe(self._after)}"
            return _failure(error, why)
        verdict = given_back(attempt)._replace(meta={MARK: first.isoformat()})
        if put_off:
            return verdict._replace(state=JobState.SCHEDULED, delay=PUT_OFF * (1 + random.random() / 2))
        self.gave_back = True
        return verdict

    def condition(self) -> dict[str, object] | None:
        """Return the parameters of `oban_sa.sql.unknown_workers.known`; None where a fetch needs no condition."""
        for named in [each for each in self.entries if self._known(each)]:
            self._forget(named)
        if not self.entries:
            return None
        overdue = [named for named, entry in self.entries.items() if entry.overdue]
        return parameters(self.entries, overdue, after=self._after)

    def listed(self) -> list[dict[str, object]]:
        """What the producer's row says of them; may be called from any thread."""
        return [
            {"worker": named.worker, "version": named.version, "since": entry.since.isoformat()}
            for named, entry in tuple(self.entries.items())
        ]

    def names(self) -> tuple[Named, ...]:
        """Return them; may be called from any thread."""
        return tuple(self.entries)

    def reviewed(self, now: datetime, others: str | None) -> None:
        """Take note of what the other producers of the queue don't know: a JSON array of what their rows say."""
        self.review_at = clock.monotonic() + self._every
        said: list[Any] = json.loads(others) if others else []
        theirs = [_read(each) for each in said]
        for named, entry in self.entries.items():
            if not all(named in each for each in theirs):
                # That one may know it: it has not met such a job, or takes them.
                entry.alone_since = now
            entry.overdue = now - entry.alone_since >= self._span

    def look_again(self) -> None:
        """Import the modules that may define these workers, where they are allowed and can be imported by now."""
        for named in list(self.entries):
            if named.version is None and named.worker not in self._registry:
                try:
                    self._registry.find(named.worker, self._allow)
                except WorkerNotFound:
                    continue

    def _known(self, named: Named) -> bool:
        if named.worker not in self._registry:
            return False
        return named.version is None or named.version <= self._registry.find(named.worker).options.version

    def _forget(self, named: Named) -> None:
        del self.entries[named]
        if not self.entries:
            self.review_at = math.inf
        logger.info("queue %s: this program knows %s by now, and does its jobs", self._queue, named)
        self.changed()

    def _tell(self, named: Named, error: Exception) -> None:
        telemetry.emit(
            telemetry.WorkerUnknown(
                runner=self._source, queue=self._queue, worker=named.worker, version=named.version, error=error
            )
        )

    @property
    def _span(self) -> timedelta:
        return timedelta(seconds=self._after)


_LONGEST: Final = 100 * 365 * 86400.0
"""For ever, as a number that PostgreSQL takes for an interval."""


def _failure(error: Exception, why: str) -> Exception:
    text = f"{error}; {why}"
    return InvalidArguments(text, path=error.path) if isinstance(error, InvalidArguments) else WorkerNotFound(text)


def _moment(written: object) -> datetime | None:
    # Others may have written anything there.
    if not isinstance(written, str):
        return None
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _read(listed: Any) -> set[Named]:
    """What another producer's row lists; what is no list of ours says nothing."""
    found: set[Named] = set()
    for each in _listed(listed):
        version = each.get("version")
        found.add(Named(str(each.get("worker")), version if type(version) is int else None))
    return found


def _listed(listed: Any) -> list[dict[str, object]]:
    items = cast("list[object]", listed) if isinstance(listed, list) else []
    return [cast("dict[str, object]", each) for each in items if isinstance(each, dict)]
