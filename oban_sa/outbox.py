"""What a session's unit of work does for jobs: it puts values in place of references, and announces.

A job is an ordinary pending object from `session.add` on, so the session itself keeps the promises: whatever flushes,
rolls back, expunges or closes does so for jobs too. Two things are added around it, by mapper events of Job and by
listeners on the one session. Bulk inserts pass mapper events by, so theirs are neither resolved nor announced.

*References.* A job's INSERT may come before the one that gives its target a key: the unit of work orders by
relationships, and between a job and its target there is none. So what is known when a job is written is written, and
what has changed by the end of the flush is put right there, by one UPDATE for all jobs. Holding such jobs back for a
second flush instead would take them out of the session for the first, where an object with a relationship to the job
loses it. This way a reference may point at another job, at the job itself, or at an object that points back at the job.

*Announcements.* At the end of a flush one statement, the same that puts references right, notifies every queue that
received its first job of the transaction that is available, or due in a moment. PostgreSQL delivers on commit and
forgets with a savepoint that rolls back, so what was announced is remembered by (nested) transaction. It is only the
shortcut: a runner that hears nothing finds the job by polling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, TwoPhaseTransaction, event
from sqlalchemy.orm import Session, SessionTransaction, UOWTransaction, attributes, object_session

from oban_sa import clock, hooks, targets
from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.sql import notifying, resolving
from oban_sa.states import JobState
from oban_sa.values import dumps, has_references, replace_references, to_json

KEY: Final = "oban"
"""The one key that a session's `info` gets."""

ANNOUNCE: Final = "oban_announce"
"""False under this name switches announcements off: in a session's `info`, or in the execution options of an engine,
a session or a connection."""

SOON: Final = timedelta(seconds=0.95)
"""Scheduled jobs that are due within this time are announced like available ones; a runner finds later ones in time by
itself, for it looks every second."""


def stage(session: Session, jobs: Iterable[Job]) -> None:
    """Put jobs whose args and meta were looked at into the session; what listens below does the rest."""
    session.add_all(jobs)


class Outbox:
    """What one session's flush is writing, and what its transaction has announced.

    Made when the session's first job is written, and no sooner: `enqueue` may be called by a listener of the
    session's own, while SQLAlchemy goes through the very list of listeners that the outbox has to join.
    """

    __slots__ = ("_announced", "_landing", "_owner", "_unresolved")

    def __init__(self, session: Session) -> None:
        self._owner = ref(session)  # weak: the session holds the outbox
        self._landing: dict[Connection, set[str]] = {}
        self._unresolved: list[_Unresolved] = []
        self._announced: WeakKeyDictionary[SessionTransaction, set[tuple[Connection, str]]] = WeakKeyDictionary()

    @classmethod
    def of(cls, session: Session) -> Outbox:
        """Return the session's outbox; the first time, make it and listen to this one session."""
        outbox = session.info.get(KEY)
        # An `info` copied from another session brings that one's outbox along.
        if isinstance(outbox, cls) and outbox._owner() is session:
            return outbox
        session.info[KEY] = outbox = cls(session)
        event.listen(session, "before_flush", _begin_flush)
        event.listen(session, "after_flush", _finish_flush)
        event.listen(session, "after_commit", _keep_announced)
        return outbox

    def begin_flush(self) -> None:
        """Let go of what a failed flush left behind."""
        self._unresolved = []
        self._landing = {}

    def land(self, session: Session, connection: Connection, job: Job) -> None:
        """Take note of a job that is about to be inserted on `connection`."""
        loaded = vars(job)
        for column, value in self._convert(session, connection, job).items():
            loaded[column] = value  # its row is written from here; there is no history to keep
        if loaded.get("state", JobState.AVAILABLE) == JobState.AVAILABLE or _due_soon(loaded):
            self._landing.setdefault(connection, set()).add(loaded.get("queue", "default"))

    def change(self, session: Session, connection: Connection, job: Job) -> None:
        """Take note of a job that is about to be updated on `connection`."""
        for column, value in self._convert(session, connection, job).items():
            if value != vars(job)[column]:
                setattr(job, column, value)

    def _convert(self, session: Session, connection: Connection, job: Job) -> dict[str, Any]:
        """Return the job's args and meta as plain JSON, with what is known by now in place of references."""
        plain: dict[str, Any] = {}
        waiting: dict[str, Any] = {}
        for column in ("args", "meta"):
            if loaded := vars(job).get(column):
                plain[column] = value = to_json(loaded, where=column)
                if has_references(value):
                    targets.check(session, value, where=column)
                    waiting[column] = value
                    plain[column] = replace_references(value, targets.known, where=column)
        if waiting:
            self._unresolved.append(_Unresolved(job, connection, waiting))
        return plain

    def finish_flush(self, session: Session) -> None:
        """Write what references turned out to be, and announce: one statement on each connection that wrote jobs."""
        unresolved, self._unresolved = self._unresolved, []
        landing, self._landing = self._landing, {}
        changed: dict[Connection, list[dict[str, Any]]] = {}
        for each in unresolved:
            if late := each.resolve():
                changed.setdefault(each.connection, []).append({"id": each.job.id, **late})
        for connection in changed.keys() | landing.keys():
            rows = changed.get(connection)
            news = self._news(session, connection, landing.get(connection, set()))
            if rows and news:
                connection.execute(resolving.RESOLVE_AND_NOTIFY, resolving.rows(rows) | news)
            elif rows:
                connection.execute(resolving.RESOLVE, resolving.rows(rows))
            elif news:
                connection.execute(notifying.NOTIFY, news)

    def keep_announced(self, session: Session) -> None:
        """Hand what a savepoint announced to the transaction around it, now that the savepoint is released."""
        released = session.get_nested_transaction()
        around = None if released is None else released.parent
        if released is not None and around is not None and (announced := self._announced.pop(released, None)):
            self._announced.setdefault(around, set()).update(announced)

    def _news(self, session: Session, connection: Connection, queues: set[str]) -> dict[str, str] | None:
        """Return what is to be announced of `queues`: nothing of those that the transaction has announced before."""
        if not queues or not _announces(session, connection):
            return None
        transactions = list(_outwards(session.get_nested_transaction() or session.get_transaction()))
        told = set[tuple[Connection, str]]().union(*(self._announced.get(each, ()) for each in transactions))
        fresh = sorted(queue for queue in queues if (connection, queue) not in told)
        if not fresh:
            return None
        self._announced.setdefault(transactions[0], set()).update((connection, queue) for queue in fresh)
        try:
            return notifying.insertions(fresh, _schema(connection))
        except InvalidOption:  # no channel can bear the name of this schema; its runners poll
            return None


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """A job written in this flush whose args or meta hold references."""

    job: Job
    connection: Connection
    waiting: dict[str, Any]

    def resolve(self) -> dict[str, Any]:
        """Give the job its final args and meta; return those that differ from what was written."""
        late: dict[str, Any] = {}
        for column, value in self.waiting.items():
            final = replace_references(value, targets.final, where=column)
            if dumps(final) != dumps(vars(self.job)[column]):  # 1, 1.0 and True are equal, but not as JSON
                late[column] = final
                # Committed, not set: its row is put right here and now.
                attributes.set_committed_value(self.job, column, final)
        return late


def _outwards(transaction: SessionTransaction | None) -> Iterator[SessionTransaction]:
    """Walk from a savepoint through those around it to the transaction: each can roll back what is inside it."""
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def _announces(session: Session, connection: Connection) -> bool:
    if session.info.get(ANNOUNCE, True) is False or connection.get_execution_options().get(ANNOUNCE, True) is False:
        return False
    # PostgreSQL refuses to prepare a transaction that has notified.
    return connection.dialect.name == "postgresql" and not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def _due_soon(loaded: Mapping[str, Any]) -> bool:
    """Whether a scheduled job is due before runners would look for due jobs by themselves."""
    moment = loaded.get("scheduled_at") if loaded.get("state") == JobState.SCHEDULED else None
    return moment is not None and moment <= clock.now() + SOON


def _schema(connection: Connection) -> str:
    translated: dict[str | None, str | None] = connection.get_execution_options().get("schema_translate_map") or {}
    return translated.get("public") or "public"


def _begin_flush(session: Session, context: UOWTransaction, objects: Any) -> None:
    Outbox.of(session).begin_flush()


def _finish_flush(session: Session, context: UOWTransaction) -> None:
    Outbox.of(session).finish_flush(session)


def _keep_announced(session: Session) -> None:
    Outbox.of(session).keep_announced(session)


@event.listens_for(Job, "before_insert", propagate=True)
def _land(mapper: Any, connection: Connection, job: Job) -> None:
    hooks.writing(job)
    if (session := object_session(job)) is not None:
        Outbox.of(session).land(session, connection, job)


@event.listens_for(Job, "before_update", propagate=True)
def _change(mapper: Any, connection: Connection, job: Job) -> None:
    if (session := object_session(job)) is not None:
        Outbox.of(session).change(session, connection, job)
