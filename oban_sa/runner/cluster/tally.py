"""What the attempts of this node came to, counted in memory by minute until it is written.

It is on the way of each job, and a job costs the runner some thirty microseconds. So the name of its worker is noted
and counted later, many at once; and where there are very many, the time of a few is taken for all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from oban_sa.describe.exceptions import kind
from oban_sa.jobs.answers import is_error
from oban_sa.jobs.states import JobState
from oban_sa.schedule import clock
from oban_sa.wire.sketches import bin_of

_Key = TypeVar("_Key", str, int)
_Name = TypeVar("_Name", str, tuple[JobState, str])

OTHER: Final = "(other)"
"""What stands for all workers, or all classes of errors, beyond those that are told apart."""

SERIES: Final = 300
"""Pairs of a queue and a worker that are told apart in a minute."""

CLASSES: Final = 20
"""Classes of errors that are told apart for one of them."""

MINUTES: Final = 120
"""Minutes that are kept apart while nothing can be written; what comes later counts in the last of them."""

AT_ONCE: Final = 1_000
"""Attempts of a queue that are noted before they are measured, where they are not written before."""

FULL: Final = AT_ONCE - 1
"""With one more they are measured."""

OF_MANY: Final = 16
"""Beyond `AT_ONCE` the time of one in so many is taken, which counts for all of these; a power of two."""

_LONGEST: Final = 100
"""Characters of the name of a class that are kept."""

_COMPLETED: Final = JobState.COMPLETED
_FAILED: Final = (JobState.RETRYABLE, JobState.DISCARDED)


class Counts:
    """How many attempts came to what: by state, by class of the error, by bin of the run and of the wait."""

    __slots__ = ("failures", "outcomes", "run", "wait")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.failures: dict[str, int] = {}
        self.run: dict[int, int] = {}
        self.wait: dict[int, int] = {}

    def add(self, other: Counts) -> None:
        """Count what another one has counted, too."""
        _merge(self.outcomes, other.outcomes)
        _merge(self.run, other.run)
        _merge(self.wait, other.wait)
        for name, count in other.failures.items():
            self.fail(name, count)

    def fail(self, name: str, count: int = 1) -> None:
        """Count failures with errors of a class."""
        if name not in self.failures and len(self.failures) >= CLASSES:
            name = OTHER
        self.failures[name] = self.failures.get(name, 0) + count


Minute = dict[tuple[str, str], Counts]
"""The counts of a minute by queue and worker."""

_TIMES: Final = 5


class Ended:
    """Attempts of a queue that came to the same state and are not counted yet.

    Their lists are flat: as lists of their own the notes would be objects that the garbage collector looks at.
    """

    __slots__ = ("mask", "queue", "state", "times", "workers")

    def __init__(self, queue: str, state: str) -> None:
        self.queue: Final = queue
        self.state: Final = state
        self.workers: Final[list[str]] = []
        """The worker of each."""
        self.times: Final[list[Any]] = []
        """Of those whose time was taken five each: where in `workers` it stands; when the code began and ended, by the
        monotonic clock; when the job was due and fetched."""
        self.mask = 0
        """The time of an attempt is taken where the length of `workers` has none of these bits."""


class Tally:
    """Counts each attempt as it ends; of one thread, the loop's."""

    def __init__(self) -> None:
        self.completed: Final[dict[str, Ended]] = {}
        """By queue the attempts that were completed; the executor adds to those that are there and not `FULL`."""
        self._others: dict[tuple[JobState, str], Ended] = {}
        self._minutes: dict[int, Minute] = {}
        # Until the database has said its own.
        self._offset = clock.now().timestamp() - clock.monotonic()

    def ended(self, loaded: Mapping[str, Any], state: JobState, answer: object, began: float) -> None:
        """Count an attempt that has just ended, and `began` at a moment of the monotonic clock.

        `loaded` are the columns of its job.
        """
        at, queue, worker = clock.monotonic(), loaded["queue"], loaded["worker"]
        if state in _FAILED and is_error(answer):
            _of(self._minute(int((at + self._offset) // 60)), queue, worker).fail(kind(answer)[:_LONGEST])
        ended = self._ended(queue, state)
        workers = ended.workers
        if not len(workers) & ended.mask:
            ended.times.extend((len(workers), began, at, loaded["scheduled_at"], loaded["attempted_at"]))
        workers.append(worker)
        if len(workers) >= AT_ONCE:
            self._measure(ended)
            ended.mask = OF_MANY - 1

    def set_clock(self, epoch: float, *, at: float) -> None:
        """Take note of the database's clock, seconds since 1970, as it was `at` a moment of the monotonic clock."""
        self._offset = epoch - at

    def now(self) -> float:
        """Return the time by the database's clock, seconds since 1970."""
        return clock.monotonic() + self._offset

    def take(self) -> Mapping[int, Minute]:
        """Return what was counted since this was last called, by the minute since 1970."""
        self._measure_all(self.completed)
        self._measure_all(self._others)
        taken, self._minutes = self._minutes, {}
        return taken

    def _measure_all(self, kept: dict[_Name, Ended]) -> None:
        for key, ended in list(kept.items()):
            if ended.workers:
                self._measure(ended)
                ended.mask = 0
            else:  # the queues of a runner may come and go
                del kept[key]

    def _ended(self, queue: str, state: JobState) -> Ended:
        if state is _COMPLETED:
            if (ended := self.completed.get(queue)) is None:
                ended = self.completed[queue] = Ended(queue, state.value)
        elif (ended := self._others.get((state, queue))) is None:
            ended = self._others[state, queue] = Ended(queue, state.value)
        return ended

    def _measure(self, ended: Ended) -> None:
        """Count what was noted, in the order in which it ended, and forget the notes."""
        workers, times = ended.workers, ended.times
        first = 0
        while first < len(times):
            number = int((times[first + 2] + self._offset) // 60)
            turns_at = (number + 1) * 60 - self._offset
            after = len(times)
            if times[2 - _TIMES] >= turns_at:
                after = first + _TIMES * max(bisect_left(times[first + 2 :: _TIMES], turns_at), 1)
            # Those between two whose time was taken are counted with the first of them.
            until = times[after] if after < len(times) else len(workers)
            _measure(self._minute(number), ended, first, after, until)
            first = after
        workers.clear()
        times.clear()

    def _minute(self, number: int) -> Minute:
        if number not in self._minutes and len(self._minutes) >= MINUTES:
            number = max(self._minutes)
        return self._minutes.setdefault(number, {})


def _measure(minute: Minute, ended: Ended, first: int, after: int, until: int) -> None:
    """Count the attempts of a minute, and the durations of those whose time was taken, each for all up to the next."""
    queue, state, workers, times = ended.queue, ended.state, ended.workers, ended.times
    for worker, count in Counter(workers[times[first] : until]).items():
        outcomes = _of(minute, queue, worker).outcomes
        outcomes[state] = outcomes.get(state, 0) + count
    for place in range(first, after, _TIMES):
        at: int = times[place]
        began, ended_at, due_at, fetched_at = times[place + 1 : place + _TIMES]
        weight = (times[place + _TIMES] if place + _TIMES < after else until) - at
        counts = _of(minute, queue, workers[at])
        _count(counts.run, ended_at - began, weight)
        if due_at is not None and fetched_at is not None:
            _count(counts.wait, (fetched_at - due_at).total_seconds(), weight)


def _count(bins: dict[int, int], seconds: float, weight: int) -> None:
    number = bin_of(seconds)
    bins[number] = bins.get(number, 0) + weight


def _of(minute: Minute, queue: str, worker: str) -> Counts:
    counts = minute.get((queue, worker))
    if counts is None:
        if len(minute) >= SERIES:
            worker = OTHER
        counts = minute.setdefault((queue, worker), Counts())
    return counts


def _merge(into: dict[_Key, int], more: Mapping[_Key, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
