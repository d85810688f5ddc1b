"""Values that only the flush of a job can know: what its references point at, and the moments that its spans lead to.

*References.* A job's INSERT may come before the one that gives its target a key: the unit of work orders by
relationships, and between a job and its target there is none. So what is known when a job is written is written, and
what has changed by the end of the flush is put right there, by one UPDATE for all jobs. Holding such jobs back for a
second flush instead would take them out of the session for the first, where an object with a relationship to the job
loses it. This way a reference may point at another job, at the job itself, or at an object that points back at the job.

*Spans.* What `schedule_in` says is counted by the database's clock. A job that is alone in its flush with that leaves
the addition to its own INSERT. Several would each need an INSERT of their own so, because an expression can't be a
parameter of a batch; for them the clock is asked once, and they are added to what it says.

*Rollbacks.* Where the flush fails, or its transaction or savepoint rolls back, the objects that were referred to may
get other keys when they are written again. So jobs get their references back, to be resolved anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, NamedTuple, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.orm.attributes import instance_state, set_committed_value

from oban_sa.jobs.unique import MARKS
from oban_sa.jobs.values import dumps, has_references, replace_references
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.outbox import references
from oban_sa.outbox.admission import plain
from oban_sa.outbox.rows import sealed
from oban_sa.sql import expressions

_NONE: Final[Mapping[str, object]] = {}


class Resolution:
    """What one session's flush has found out about its jobs, and what it still has to."""

    __slots__ = ("_began", "_clocks", "_given", "_unresolved")

    def __init__(self) -> None:
        self.keep()
        self.begin()

    def begin(self) -> None:
        """Begin a flush, and forget what one that failed left behind."""
        self._unresolved: list[_Unresolved] = []
        self._clocks: dict[Connection, datetime] = {}
        self._began: dict[Connection, datetime] = {}

    def insert(self, session: Session, connection: Connection, job: Job) -> None:
        """Give a job that is about to be inserted args and meta as they can be written now."""
        # Its row is written from here, so there is no history to keep.
        vars(job).update(self._convert(session, connection, job))
        if self._unresolved and (latest := self._unresolved[-1]).job is job:
            self._note(latest)

    def update(self, session: Session, connection: Connection, job: Job) -> None:
        """Give a job that is about to be updated values as they can be written now."""
        for column, value in self._convert(session, connection, job).items():
            if value != vars(job)[column]:
                setattr(job, column, value)
        if isinstance(later := vars(job).get("scheduled_at"), Later):
            # An UPDATE with an expression would leave the attribute to be read by another query.
            job.scheduled_at = self._clock(connection) + later.span

    def date(self, session: Session, connection: Connection, job: Job) -> None:
        """Give a job the moments that its INSERT can't get from the database, or not in a batch."""
        loaded = vars(job)
        answers: bool = connection.dialect.insert_executemany_returning
        if isinstance(later := loaded.get("scheduled_at"), Later) and (
            not answers or connection in self._clocks or _several_spans(session)
        ):
            loaded["scheduled_at"] = self._clock(connection) + later.span
        if answers:
            return
        # With use_insertmanyvalues=False no INSERT tells what the database has set.
        if loaded.get("inserted_at") is None:
            loaded["inserted_at"] = self._beginning(connection)
        if loaded.get("scheduled_at") is None:
            loaded["scheduled_at"] = loaded["inserted_at"]

    def finish(self) -> dict[Connection, list[dict[str, object]]]:
        """Give all jobs of this flush their final args and meta.

        Returns what the rows on each connection have to be changed to: `id`, with `args`, `meta` or both. Raises
        `ReferenceOutsideSession` for a reference that has no value even now.
        """
        unresolved = self._unresolved
        self.begin()
        changed: dict[Connection, list[dict[str, object]]] = {}
        for each in unresolved:
            late = each.resolve()
            self._note(each)
            if late:
                if "args" in late and (meta := each.job.meta):
                    late = {**late, "args": sealed(each.job.worker, cast("dict[str, object]", late["args"]), meta)}
                changed.setdefault(each.connection, []).append({"id": each.job.id, **late})
        return changed

    def waiting(self, job: Job) -> Mapping[str, object]:
        """Return those of a job's args and meta, as this flush was given them, that hold references."""
        # Mostly the last one, which was found out just now.
        return next((each.waiting for each in reversed(self._unresolved) if each.job is job), _NONE)

    def drop(self, states: Iterable[InstanceState[Any]]) -> None:
        """Forget the references of jobs that this flush does not write after all."""
        dropped = set(states)
        self._unresolved = [each for each in self._unresolved if instance_state(each.job) not in dropped]

    def restore(self, state: InstanceState[Any]) -> None:
        """Give a job that has no row any more its references back, but for what was changed since."""
        loaded = state.dict
        for column, (given, written) in self._given.pop(state, {}).items():
            if loaded.get(column) is written:
                loaded[column] = given

    def keep(self) -> None:
        """Forget the references of all jobs: their rows are committed."""
        # By job and column, what was given and what now stands in its place; keeps no job alive.
        self._given: WeakKeyDictionary[InstanceState[Any], dict[str, tuple[Any, Any]]] = WeakKeyDictionary()

    def _note(self, each: _Unresolved) -> None:
        given, loaded = self._given.setdefault(instance_state(each.job), {}), vars(each.job)
        given.update({column: (value, loaded[column]) for column, value in each.waiting.items()})

    def _convert(self, session: Session, connection: Connection, job: Job) -> dict[str, object]:
        """Return the job's args and meta as plain JSON, with what is known by now in place of references."""
        written: dict[str, object] = {}
        waiting: dict[str, object] = {}
        for column in ("args", "meta"):
            loaded = vars(job).get(column)
            # Other programs may have stored args that are no object; such a row can still be updated.
            if isinstance(loaded, dict) and loaded:
                written[column] = value = plain(loaded, column, session)
                if has_references(value):
                    waiting[column] = value
                    written[column] = replace_references(value, references.known, where=column)
        if waiting:
            self._unresolved.append(_Unresolved(job, connection, waiting))
        return written

    def _clock(self, connection: Connection) -> datetime:
        """Return the moment that the database's clock showed when this flush first asked for it."""
        if (now := self._clocks.get(connection)) is None:
            found: datetime = connection.execute(expressions.CLOCK).scalar_one()
            now = self._clocks[connection] = found.replace(tzinfo=UTC)
        return now

    def _beginning(self, connection: Connection) -> datetime:
        """Return the moment when the transaction began, by the database's clock."""
        if (began := self._began.get(connection)) is None:
            found: datetime = connection.execute(expressions.BEGAN).scalar_one()
            began = self._began[connection] = found.replace(tzinfo=UTC)
        return began


class _Unresolved(NamedTuple):
    """A job written in this flush, with those of its args and meta that hold references."""

    job: Job
    connection: Connection
    waiting: dict[str, object]

    def resolve(self) -> dict[str, object]:
        """Give the job its final args and meta; return those that differ from what was written."""
        late: dict[str, object] = {}
        for column, value in self.waiting.items():
            final = replace_references(value, references.final, where=column)
            written = vars(self.job)[column]
            if column == "meta":
                final |= {mark: written[mark] for mark in MARKS if mark in written}
            if dumps(final) != dumps(written):  # 1, 1.0 and True are equal, but not as JSON
                late[column] = final
                # Committed, not set: its row is put right here and now.
                set_committed_value(self.job, column, final)
        return late


def _several_spans(session: Session) -> bool:
    spans = (True for each in session.new if isinstance(vars(each).get("scheduled_at"), Later))
    return len(list(islice(spans, 2))) > 1
