"""What jobs have in common, as conditions on their rows: those that an index serves, and those that are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    SQLColumnExpression,
    Text,
    cast,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.models.base import Expression
from oban_sa.models.types import UTCDateTime

_ONE: Final[Expression] = literal_column("1")


@dataclass(frozen=True, slots=True)
class Term:
    """One more condition: what a job has as `of` is one of the `values`, or where it is `negated` none of them.

    Values of args and meta are JSON texts that have to be contained; those of ids and priorities are numbers. An error
    is found by a part of it, in upper or lower case.
    """

    of: Literal["queue", "worker", "tag", "node", "error", "args", "meta", "id", "priority"]
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the last job on it, and where jobs are in the order of their moments, when that was due."""

    id: int
    scheduled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What jobs have in common; what is left empty does not matter.

    A worker is meant by its whole name or the last part of it. All of `tags` have to be there. Each of `args` and
    `meta` is a list of JSON texts, of which one has to be contained. `since` and `until` are about `scheduled_at`. All
    of the `terms` have to be true.
    """

    states: tuple[JobState, ...] = ()
    queues: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    args: tuple[tuple[str, ...], ...] = ()
    meta: tuple[tuple[str, ...], ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[int, ...] = ()
    priorities: tuple[int, ...] = ()
    terms: tuple[Term, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether some jobs are meant and others are not."""
        return bool(self.ids) or self.by_index or self.by_looking

    @property
    def by_index(self) -> bool:
        """Whether something is wanted that an index leads to."""
        return bool(self.states or self.queues or self.priorities) or self.since is not None or self.until is not None

    @property
    def by_looking(self) -> bool:
        """Whether jobs have to be looked at to see whether they are meant."""
        return bool(self.workers or self.tags or self.args or self.meta or self.terms)


def conditions(wanted: Wanted, of: type[Job] = Job) -> list[ColumnElement[bool]]:
    """All that is wanted, as conditions on jobs; none where everything is empty."""
    found: list[ColumnElement[bool]] = []
    if wanted.states:
        found.append(of.state.in_(wanted.states))
    if wanted.queues:
        found.append(of.queue.in_(wanted.queues))
    if wanted.priorities:
        found.append(of.priority.in_(wanted.priorities))
    if wanted.ids:
        found.append(of.id == func.any(cast(literal(list(wanted.ids), ARRAY(BigInteger())), ARRAY(BigInteger()))))
    return found + due(wanted, of.scheduled_at) + looked_for(wanted, of)


def looked_for(wanted: Wanted, of: type[Job] = Job) -> list[ColumnElement[bool]]:
    """Those of the conditions that no index serves."""
    found: list[ColumnElement[bool]] = []
    if wanted.workers:
        found.append(_of_workers(of, wanted.workers))
    if wanted.tags:
        found.append(of.tags.op("@>")(cast(literal(list(wanted.tags), ARRAY(Text())), ARRAY(Text()))))
    contained = [Term("args", one_of) for one_of in wanted.args] + [Term("meta", one_of) for one_of in wanted.meta]
    return found + [_condition(term, of) for term in (*contained, *wanted.terms)]


def _of_workers(of: type[Job], workers: Sequence[str]) -> ColumnElement[bool]:
    parts = [of.worker.endswith(f".{worker}", autoescape=True) for worker in workers if "." not in worker]
    return or_(of.worker.in_(workers), *parts)


def _condition(term: Term, of: type[Job]) -> ColumnElement[bool]:
    met = _met(term, of)
    # A row of another program may hold NULL, which is none of the values.
    return func.coalesce(met, literal_column("false")).is_(literal_column("false")) if term.negated else met


def _met(term: Term, of: type[Job]) -> ColumnElement[bool]:
    match term.of:
        case "queue":
            return of.queue.in_(term.values)
        case "worker":
            return _of_workers(of, term.values)
        case "id":
            return of.id.in_([int(value) for value in term.values])
        case "priority":
            return of.priority.in_([int(value) for value in term.values])
        case "tag":
            return of.tags.op("&&")(texts(term.values))
        case "node":
            # Its elements are the node and the uuid of its producer, which no node is called.
            return of.attempted_by.op("&&")(texts(term.values))
        case "args" | "meta":
            column = of.args if term.of == "args" else of.meta
            return or_(*(column.op("@>")(cast(cast(literal(text, Text()), Text), JSONB)) for text in term.values))
        case "error":
            entry = func.unnest(of.errors, type_=JSONB()).column_valued("entry")
            said = cast(entry, JSONB).op("->>")(literal_column("'error'"))
            parts = [func.strpos(func.lower(said), func.lower(literal(part, Text()))) > 0 for part in term.values]
            return exists(select(_ONE).where(or_(*parts)))


def due(wanted: Wanted, scheduled_at: SQLColumnExpression[datetime]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        found.append(scheduled_at >= literal(wanted.since, UTCDateTime()))
    if wanted.until is not None:
        found.append(scheduled_at < literal(wanted.until, UTCDateTime()))
    return found


def texts(values: Sequence[str]) -> Expression:
    return cast(literal(list(values), ARRAY(Text())), ARRAY(Text()))
