"""Retry jobs: those that are not unique by one statement, and those that are as they get their keys.

A unique job is made available in the statement that claims its key. Where another job stands in its way, in the states
and within the period that it was enqueued with, it stays as it is. Of several with one key the newest comes first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from oban_sa.client.selection import Selection, parameters
from oban_sa.client.transactions import Work
from oban_sa.errors import UniqueBusy
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict, Unique
from oban_sa.outbox.claim import explaining, hurrying, must_come_early, note_claimed
from oban_sa.sql.control import retry as retry_plain
from oban_sa.sql.control import retry_unique

TURNS: Final = 1_000
"""How often the same keys are claimed; each time another transaction has committed one of them."""

_NONE: Final[Mapping[int, Conflict]] = MappingProxyType({})


class Retried(int):
    """How many jobs were retried, as an int, and which were not, since another job has their unique key.

    `retried.conflicts` has a `Conflict` for the id of each that was left as it is: the job that stood in its way.
    """

    conflicts: Mapping[int, Conflict]

    def __new__(cls, count: int = 0, conflicts: Mapping[int, Conflict] = _NONE) -> Self:
        """Make one; `conflicts` is copied."""
        made = super().__new__(cls, count)
        object.__setattr__(made, "conflicts", MappingProxyType(dict(conflicts)))
        return made

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse it, as an int does."""
        raise AttributeError(f"Retried is a number, and has no {name} that can be set")

    def __str__(self) -> str:
        """Write the number."""
        return int.__repr__(self)

    def __repr__(self) -> str:
        """Write both."""
        return f"Retried({int(self)}, conflicts={dict(self.conflicts)!r})"

    def __reduce__(self) -> tuple[type[Retried], tuple[int, dict[int, Conflict]]]:
        """Copy and pickle both."""
        return Retried, (int(self), dict(self.conflicts))


def retry(work: Work, chosen: Selection, attempts: int) -> Retried:
    """Make jobs available at once, with so many `attempts` left at least; raises `UniqueBusy`."""
    channel = work.channel("insert")
    given = parameters(work, retry_plain, chosen, insert=channel)
    if given is None:
        return Retried()
    answer = work.execute(retry_plain(given[0], attempts=attempts, announcing=channel is not None), given[1])
    row = answer.mappings().one()
    unique = [_Stored.of(*each) for each in _read(row["unique"])]
    if not unique:
        return Retried(row["count"])
    retrying = _Retrying(work, attempts, channel)
    with hurrying(work.connection, needed=must_come_early(work.connection)):
        retrying.all(sorted(unique, key=_newest))
    return Retried(row["count"] + retrying.count, retrying.conflicts)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A unique job that is to be retried."""

    id: int
    key: str
    rule: Unique

    @classmethod
    def of(cls, identity: int, key: str, text: str | None) -> _Stored:
        return cls(identity, key, Unique.of_text(text))


class _Retrying:
    """Unique jobs that are being retried in one transaction."""

    def __init__(self, work: Work, attempts: int, channel: str | None) -> None:
        self.count = 0
        self.conflicts: dict[int, Conflict] = {}
        self._work = work
        self._attempts = attempts
        self._channel = channel

    def all(self, jobs: Sequence[_Stored]) -> None:
        """Decide for all of them, of each key in their order."""
        turns = 0
        while jobs:
            left = self._claim(jobs)
            turns = turns + 1 if len(left) == len(jobs) else 0
            if turns == TURNS:
                raise UniqueBusy(
                    f"other transactions claim the unique key of job {jobs[0].id} again and again; try it later"
                )
            jobs = left

    def _claim(self, jobs: Sequence[_Stored]) -> list[_Stored]:
        """Claim keys once, and return the jobs that are to be claimed again."""
        joining = any(job.rule.joins for job in jobs)
        statement = retry_unique(attempts=self._attempts, announcing=self._channel is not None, joining=joining)
        given: dict[str, object] = {"rows": values.dumps([_row(number, job) for number, job in enumerate(jobs)])}
        if self._channel is not None:
            given["insert"] = self._channel
        with explaining():
            row = self._work.execute(statement, given).mappings().one()
        note_claimed(self._work.connection)
        self.count += row["count"]
        won = set(_read(row["won"]))
        lost = {identity: Conflict(blocker, JobState(state)) for identity, blocker, state in _read(row["left"])}
        first: dict[str, _Stored] = {}  # of each key, what was decided
        again: list[_Stored] = []
        for job in jobs:
            if job.id in won or job.id in lost:
                first[job.key] = job
                if job.id in lost:
                    self.conflicts[job.id] = lost[job.id]
            elif (found := first.get(job.key)) is not None and (conflict := _like(job, found, lost)) is not None:
                self.conflicts[job.id] = conflict
            else:
                again.append(job)
        return again


def _like(job: _Stored, first: _Stored, lost: Mapping[int, Conflict]) -> Conflict | None:
    """Return what stands in the way of a job after another one of its key, where no statement is needed to know."""
    if (conflict := lost.get(first.id)) is None:  # it is available from now on
        return Conflict(first.id, JobState.AVAILABLE) if JobState.AVAILABLE in job.rule.blocking else None
    return conflict if job.rule == first.rule else None


def _row(number: int, job: _Stored) -> dict[str, object]:
    terms = job.rule.terms
    return {"number": number, "key": job.key, "id": job.id, **{name: terms[name] for name in _TERMS}}


_TERMS: Final = ("states", "period", "joins")


def _newest(job: _Stored) -> int:
    return -job.id


def _read(text: str | None) -> Iterable[Any]:
    return values.from_json(text) if text is not None else ()
