"""Several jobs as a caller gives them: a list, a generator or an asynchronous generator, read one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Iterable
from typing import Any, TypeAlias

from oban_sa.errors import InvalidJob
from oban_sa.models import Job
from oban_sa.outbox.admission import check

Jobs: TypeAlias = Iterable[Job] | AsyncIterable[Job]


def several(jobs: Any) -> Jobs:
    """Return what was given as several jobs; raises `TypeError` for one, and for what can't be iterated over."""
    if isinstance(jobs, Job) or not isinstance(jobs, (Iterable, AsyncIterable)):
        raise TypeError(f"enqueue_many takes several jobs, got {jobs!r}; for one write enqueue(job)")
    return jobs  # pyright: ignore[reportUnknownVariableType]


class Stream(ABC):
    """Takes jobs one by one, and writes what it has taken again and again, so that memory stays bounded."""

    def __init__(self) -> None:
        self.count = 0
        """How many were taken, which is the index of the one that is being taken."""
        self._conflicts = 0

    async def read(self, jobs: Jobs) -> None:
        """Take all of `jobs`; an error that refuses one says which it is."""
        take = self.take
        try:
            if isinstance(jobs, AsyncIterable):
                async for job in jobs:
                    if take(job):
                        await self.write()
            else:
                for job in jobs:
                    if take(job):
                        await self.write()
        except InvalidJob as refused:
            refused.number(self.count)
            raise

    @property
    def stored(self) -> int:
        """How many were inserted: those that were taken, but for those in whose way another job stood."""
        return self.count - self._conflicts

    def changed(self, flushed: Iterable[Job]) -> list[Job]:
        """Return those of the jobs of a flush of which a row was inserted, or changed, and count the others."""
        changed: list[Job] = []
        for job in flushed:
            if job.conflict is not None:
                self._conflicts += 1
            if job.conflict is None or job.conflict.replaced:
                changed.append(job)
        return changed

    @abstractmethod
    def take(self, job: Job) -> bool:
        """Take a job that `check` accepts, and count it; return whether it is time to write."""

    @abstractmethod
    async def write(self) -> None:
        """Write what was taken."""

    def check(self, job: object) -> None:
        """Raise what `admission.check` raises; a `TypeError` says which of the jobs it is, as an `InvalidJob` will."""
        try:
            check(job)
        except TypeError as error:
            raise TypeError(f"jobs[{self.count}]: {error}") from None
