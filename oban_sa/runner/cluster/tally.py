"""What the attempts of this node came to, counted in memory by minute until it is written.

It is on the way of each job, and a job costs the runner some thirty microseconds. So what is known of an attempt is
noted as it is, and it is measured later, many at once.
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

OTHER: Final = "(other)"
"""What stands for all workers, or all classes of errors, beyond those that are told apart."""

SERIES: Final = 300
"""Pairs of a queue and a worker that are told apart in a minute."""

CLASSES: Final = 20
"""Classes of errors that are told apart for one of them."""

MINUTES: Final = 120
"""Minutes that are kept apart while nothing can be written; what comes later counts in the last of them."""

AT_ONCE: Final = 1_000
"""Attempts that are noted before they are measured, where they are not written before."""

OF_MANY: Final = 8
"""Of so many each eighth is measured and counts for eight; all of them are counted."""

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

_Notes = list[Any]

_EACH: Final = 6

FULL: Final = _EACH * AT_ONCE
"""The length of a list of notes that is to be measured."""


class Tally:
    """Counts each attempt as it ends; of one thread, the loop's."""

    def __init__(self) -> None:
        self.completed: Final[_Notes] = []
        """Of attempts that were completed, six for each, one after the other: queue and worker; when the code began and
        ended, by the monotonic clock; when the job was due and fetched. The executor adds to it while it is not `FULL`.

        As lists of their own the notes would be objects that the garbage collector looks at.
        """
        self._others: dict[str, _Notes] = {}
        """The same of other states."""
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
        notes = self.completed if state is _COMPLETED else self._others.setdefault(state.value, [])
        notes += (queue, worker, began, at, loaded["scheduled_at"], loaded["attempted_at"])
        if len(notes) >= FULL:
            self._measure(state.value, notes)

    def set_clock(self, epoch: float, *, at: float) -> None:
        """Take note of the database's clock, seconds since 1970, as it was `at` a moment of the monotonic clock."""
        self._offset = epoch - at

    def now(self) -> float:
        """Return the time by the database's clock, seconds since 1970."""
        return clock.monotonic() + self._offset

    def take(self) -> Mapping[int, Minute]:
        """Return what was counted since this was last called, by the minute since 1970."""
        for state, notes in ((_COMPLETED.value, self.completed), *self._others.items()):
            self._measure(state, notes)
        taken, self._minutes = self._minutes, {}
        return taken

    def _measure(self, state: str, noted: _Notes) -> None:
        """Count what was noted, in the order in which it ended, and forget the notes."""
        notes = noted.copy()
        noted.clear()
        every = OF_MANY if len(notes) >= FULL else 1
        while notes:
            number = int((notes[3] + self._offset) // 60)
            turns_at = (number + 1) * 60 - self._offset
            size = len(notes)
            if notes[3 - _EACH] >= turns_at:
                size = _EACH * max(bisect_left(notes[3::_EACH], turns_at), 1)
            _measure(self._minute(number), state, notes[:size], every)
            notes = notes[size:]

    def _minute(self, number: int) -> Minute:
        if number not in self._minutes and len(self._minutes) >= MINUTES:
            number = max(self._minutes)
        return self._minutes.setdefault(number, {})


def _measure(minute: Minute, state: str, notes: _Notes, every: int) -> None:
    """Count all attempts of a minute, and the durations of one in so many, which counts for as many."""
    for (queue, worker), count in Counter(zip(notes[::_EACH], notes[1::_EACH], strict=True)).items():
        outcomes = _of(minute, queue, worker).outcomes
        outcomes[state] = outcomes.get(state, 0) + count
    for place in range(0, len(notes), _EACH * every):
        queue, worker, began, at, due_at, fetched_at = notes[place : place + _EACH]
        counts = _of(minute, queue, worker)
        _count(counts.run, at - began, every)
        if due_at is not None and fetched_at is not None:
            _count(counts.wait, (fetched_at - due_at).total_seconds(), every)


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
