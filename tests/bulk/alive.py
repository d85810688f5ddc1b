"""A generator of jobs that knows how many of them are kept at once."""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

from oban_sa import Job


class Alive:
    """Makes jobs one by one; `most` is how many of them were in memory at the same time."""

    def __init__(self) -> None:
        self.most = 0
        self._jobs: WeakSet[Job] = WeakSet()

    def made(self, count: int) -> Iterator[Job]:
        for _ in range(count):
            self._jobs.add(job := Job("w"))
            self.most = max(self.most, len(self._jobs))
            yield job
