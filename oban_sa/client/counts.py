"""Sums of what attempts came to: outcomes, failures, and how long they ran and waited, added up from rows of counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, cast

from oban_sa.jobs.states import JobState
from oban_sa.wire import json_text
from oban_sa.wire.sketches import quantiles

SHARES: Final = (0.5, 0.95, 0.99)
"""The percentiles that are shown."""

_MOST: Final = 10**15
"""What is no less is no count."""


@dataclass(slots=True)
class Sums:
    """What some attempts came to, added up."""

    outcomes: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    run: Counter[int] = field(default_factory=Counter[int])
    wait: Counter[int] = field(default_factory=Counter[int])

    @property
    def total(self) -> int:
        """How many attempts ended."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """How many failed."""
        return self.outcomes[JobState.RETRYABLE.value] + self.outcomes[JobState.DISCARDED.value]

    def runs(self) -> list[float | None]:
        """Return the percentiles of `SHARES` of how long code ran, in seconds, each right within 2 %."""
        return quantiles(self.run, SHARES)

    def waits(self) -> list[float | None]:
        """Return the same of the time between the moment a job was due and its fetch."""
        return quantiles(self.wait, SHARES)

    def merge(self, other: Sums) -> None:
        """Add what another one has."""
        self.outcomes.update(other.outcomes)
        self.failures.update(other.failures)
        self.run.update(other.run)
        self.wait.update(other.wait)


def sums_of(*, outcomes: str | None, failures: str | None = None, run: str | None, wait: str | None) -> Sums:
    """Add up what rows have: arrays of JSON objects, as text, or None. What has no counts adds nothing."""
    return Sums(Counter(_added(outcomes)), Counter(_added(failures)), _bins(_added(run)), _bins(_added(wait)))


def _added(text: str | None) -> dict[str, int]:
    found: dict[str, int] = {}
    before = found.get
    for counts in cast("list[object]", json_text.read(text)) if text is not None else ():
        if not isinstance(counts, dict):
            continue
        # Most of the time of a page goes by here, in tens of thousands of turns.
        for key, count in cast("dict[str, object]", counts).items():
            if type(count) is int and 0 <= count < _MOST:
                found[key] = before(key, 0) + count
    return found


def _bins(counts: dict[str, int]) -> Counter[int]:
    """Return the counts of keys that are bins."""
    found: Counter[int] = Counter()
    for key, count in counts.items():
        if key.isascii() and key.isdigit() and len(key) < 5:
            found[int(key)] += count
    return found
