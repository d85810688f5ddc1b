"""What a session's unit of work does for jobs: it puts values in place of references, and announces.

A job is an ordinary pending object from `session.add` on, so the session itself keeps the promises: whatever flushes,
rolls back, expunges or closes does so for jobs too. Two things are added around it, by mapper events of Job and by
listeners on the one session. Bulk inserts pass mapper events by, so theirs are neither resolved nor announced.

*References.* A job's INSERT may come before the one that gives its target a key: the unit of work orders by
relationships, and between a job and its target there is none. So what is known when a job is written is written, and
what has changed by the end of the flush is put right there, by one UPDATE for all jobs. Holding such jobs back for a
second flush instead would take them out of the session for the first, where an object with a relationship to the job
loses it. This way a reference may point at another job, at the job itself, or at an object that points back at the job.

*Spans.* What `schedule_in` says is counted by the database's clock. A job that is alone in its flush with that leaves
the addition to its own INSERT. Several would each need an INSERT of their own so, because an expression can't be a
parameter of a batch; for them the clock is asked once, and they are added to what it says.

*Announcements.* Queues that received jobs which are available, or due in a moment, are announced once in a transaction,
shortly before its end (`announcing`). It is only the shortcut: a runner that hears nothing finds the job by polling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final
from weakref import ref

from sqlalchemy import Connection, event
from sqlalchemy.orm import InstanceState, Session, UOWTransaction, attributes, object_session
from sqlalchemy.orm.interfaces import EXT_CONTINUE

from oban_sa import clock, hooks, targets, unwritten
from oban_sa.announcing import ANNOUNCE, Announcing
from oban_sa.binds import Homes
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.sql import moments, notifying, resolving
from oban_sa.states import JobState
from oban_sa.taken_back import Given
from oban_sa.values import dumps, has_references, is_flat, replace_references, to_json

KEY: Final = "oban"
"""The one key that a session's `info` gets."""

SOON: Final = timedelta(seconds=0.95)
"""Scheduled jobs that are due within this time are announced like available ones; a runner finds later ones in time by
itself, for it looks every second."""

_AVAILABLE: Final = JobState.AVAILABLE  # Python 3.11 takes longer to find a member than to compare it


def stage(session: Session, jobs: list[Job]) -> None:
    """Put jobs whose args and meta were looked at into the session; what listens below does the rest."""
    if jobs:
        if not session.is_active:
            unwritten.refuse_ended(session)
        outbox = Outbox.of(session)  # now, so that it sees the beginning of the commit
        session.add_all(jobs)
        outbox.staged = jobs[-1]


class Outbox:
    """What one session's flush is writing, and what its transaction announces."""

    __slots__ = (
        "_announcing",
        "_at_once",
        "_began",
        "_clocks",
        "_given",
        "_homes",
        "_landing",
        "_listens",
        "_owner",
        "_unresolved",
        "staged",
    )

    def __init__(self, session: Session, *, flushing: bool) -> None:
        self._owner = ref(session)  # weak: the session holds the outbox
        self._landing: dict[Connection, set[str]] = {}
        self._clocks: dict[Connection, datetime] = {}
        self._began: dict[Connection, datetime] = {}
        self._given: Given | None = None  # until there is a reference
        self._homes = Homes()
        self._unresolved: list[_Unresolved] = []
        self._listens = False
        self.staged: Job | None = None
        """The last job that was staged and waits to be written."""
        # The flush may belong to a commit whose beginning was missed.
        self._at_once = flushing
        self._announcing = Announcing(sees_commits=_listen_to_commits(session))

    @classmethod
    def of(cls, session: Session, *, flushing: bool = False) -> Outbox:
        """Return the session's outbox, or make it the first time, which may be as late as in a flush."""
        outbox = session.info.get(KEY)
        # An `info` copied from another session brings that one's outbox along.
        if isinstance(outbox, cls) and outbox._owner() is session:
            return outbox
        session.info[KEY] = outbox = cls(session, flushing=flushing)
        return outbox

    def __del__(self) -> None:
        """Tell of a job that the session was forgotten with."""
        if self.staged is not None:
            unwritten.tell_of_forgetting(self.staged)

    def miss(self, session: Session, state: InstanceState[Any]) -> None:
        """Take note that a job leaves the session unwritten, and tell of it where that is because the session ends."""
        self.take_back(state)
        if self.staged is None:
            return
        if unwritten.is_closing(session):
            staged, self.staged = self.staged, None
            unwritten.tell_of_closing(session, staged)
        elif state.obj() is self.staged:
            self.staged = next((each for each in session.new if isinstance(each, Job)), None)

    def take_back(self, state: InstanceState[Any]) -> None:
        """Take note that a job has no row any more, as what had written it was rolled back."""
        if self._given is not None:
            self._given.restore(state)

    def listen(self, session: Session) -> None:
        """Listen to this one session from its first flush with jobs on, and no sooner: no listener of it flushes."""
        self._listens = True
        event.listen(session, "before_flush", _begin_flush)
        event.listen(session, "after_flush", _finish_flush)
        event.listen(session, "after_commit", _after_commit)

    def begin_flush(self) -> None:
        """Let go of what a failed flush left behind."""
        self._unresolved = []
        self._landing = {}
        self._clocks, self._began = {}, {}
        self._at_once = False

    def land(self, session: Session, connection: Connection, job: Job) -> None:
        """Take note of a job that is about to be inserted on `connection`."""
        queues = self._landing.get(connection)
        if queues is None:  # the first of this flush
            if not self._listens:
                self.listen(session)
            self.staged = None
            self._homes.add(connection)
            queues = self._landing[connection] = set()
        loaded = vars(job)
        if not (is_flat(loaded.get("args")) and is_flat(loaded.get("meta"))):
            for column, value in self._convert(session, connection, job).items():
                loaded[column] = value  # its row is written from here; there is no history to keep
            if self._unresolved and (latest := self._unresolved[-1]).job is job:
                self._given = self._given or Given()
                latest.note(self._given)
        if _concerns_runners(loaded):
            queues.add(loaded.get("queue", "default"))
        answers: bool = connection.dialect.insert_executemany_returning
        if isinstance(later := loaded.get("scheduled_at"), Later) and (
            not answers or connection in self._clocks or _several_spans(session)
        ):
            loaded["scheduled_at"] = self._clock(connection) + later.span
        if not answers:
            self._date(connection, loaded)

    def change(self, session: Session, connection: Connection, job: Job) -> None:
        """Take note of a job that is about to be updated on `connection`."""
        if not self._listens:
            self.listen(session)
        for column, value in self._convert(session, connection, job).items():
            if value != vars(job)[column]:
                setattr(job, column, value)
        if isinstance(later := vars(job).get("scheduled_at"), Later):
            # An UPDATE with an expression would leave the attribute to be read by another query.
            job.scheduled_at = self._clock(connection) + later.span

    def _clock(self, connection: Connection) -> datetime:
        """Return the moment that the database's clock showed when this flush first asked for it."""
        if (now := self._clocks.get(connection)) is None:
            found: datetime = connection.execute(moments.CLOCK).scalar_one()
            now = self._clocks[connection] = found.replace(tzinfo=UTC)
        return now

    def _date(self, connection: Connection, loaded: dict[str, Any]) -> None:
        """Give a job the moments that the database would set: with use_insertmanyvalues=False no INSERT tells them."""
        if loaded.get("inserted_at") is None:
            if (began := self._began.get(connection)) is None:
                found: datetime = connection.execute(moments.BEGAN).scalar_one()
                began = self._began[connection] = found.replace(tzinfo=UTC)
            loaded["inserted_at"] = began
        if loaded.get("scheduled_at") is None:
            loaded["scheduled_at"] = loaded["inserted_at"]

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
        self._homes.check(session)
        unresolved, self._unresolved = self._unresolved, []
        landing, self._landing = self._landing, {}
        self._clocks, self._began = {}, {}
        at_once, self._at_once = self._at_once, False
        changed: dict[Connection, list[dict[str, Any]]] = {}
        for each in unresolved:
            late = each.resolve()
            self._given = self._given or Given()
            each.note(self._given)
            if late:
                changed.setdefault(each.connection, []).append({"id": each.job.id, **late})
        for connection in changed.keys() | landing.keys():
            rows = changed.get(connection)
            news = self._announcing.receive(session, connection, landing.get(connection, ()), at_once=at_once)
            if rows and news:
                connection.execute(resolving.RESOLVE_AND_NOTIFY, resolving.rows(rows) | news)
            elif rows:
                connection.execute(resolving.RESOLVE, resolving.rows(rows))
            elif news:
                connection.execute(notifying.NOTIFY, news)
            if news:
                self._announcing.sent(connection)

    def receive(self, session: Session, connection: Connection, queues: set[str]) -> None:
        """Take note that a statement, and no flush, wrote jobs on `connection`, available ones for `queues`."""
        if not self._listens:
            self.listen(session)
        self._homes.add(connection)
        if news := self._announcing.receive(session, connection, queues, at_once=False):
            connection.execute(notifying.NOTIFY, news)
            self._announcing.sent(connection)

    def before_commit(self, session: Session) -> None:
        """Announce what earlier flushes wrote; raises `JobElsewhere` where they wrote apart from the data."""
        if session.get_nested_transaction() is None:
            self._homes.check(session)
        pending = (vars(each) for each in session.new if isinstance(each, Job))
        staged = {loaded.get("queue", "default") for loaded in pending if _concerns_runners(loaded)}
        for connection, news in self._announcing.before_commit(session, staged):
            connection.execute(notifying.NOTIFY, news)
            self._announcing.sent(connection)

    def after_commit(self, session: Session) -> None:
        """Keep what a savepoint wrote for the end of the transaction; after that, announce what is left."""
        if self._given is not None and session.get_nested_transaction() is None:
            self._given = None  # the rows are there to stay
        self._announcing.after_commit(session)


@dataclass(frozen=True, slots=True)
class _Unresolved:
    """A job written in this flush whose args or meta hold references."""

    job: Job
    connection: Connection
    waiting: dict[str, Any]

    def note(self, given: Given) -> None:
        """Have the references back where the row of the job is taken back."""
        state, loaded = attributes.instance_state(self.job), vars(self.job)
        for column, value in self.waiting.items():
            given.note(state, column, value, loaded[column])

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


def _concerns_runners(loaded: Mapping[str, Any]) -> bool:
    return loaded.get("state", _AVAILABLE) == _AVAILABLE or _due_soon(loaded)


def _due_soon(loaded: Mapping[str, Any]) -> bool:
    """Whether a scheduled job is due before runners would look for due jobs by themselves."""
    moment = loaded.get("scheduled_at") if loaded.get("state") == JobState.SCHEDULED else None
    if isinstance(moment, Later):
        return moment.span <= SOON
    return moment is not None and moment <= clock.now() + SOON


def _several_spans(session: Session) -> bool:
    spans = (True for each in session.new if isinstance(vars(each).get("scheduled_at"), Later))
    return len(list(islice(spans, 2))) > 1


def _listen_to_commits(session: Session) -> bool:
    dispatch: Any = session.dispatch.before_commit
    listeners = getattr(dispatch, "listeners", None)
    if listeners is None:
        return False
    if listeners:
        # `enqueue` may be called by one of them, while SQLAlchemy goes through this very list, which must not change
        # then. So the list is replaced by a copy, and it is the copy that is joined.
        dispatch.listeners = listeners.copy()
    event.listen(session, "before_commit", _before_commit)
    return True


def _begin_flush(session: Session, context: UOWTransaction, objects: Any) -> None:
    Outbox.of(session).begin_flush()


def _finish_flush(session: Session, context: UOWTransaction) -> None:
    Outbox.of(session).finish_flush(session)


def _before_commit(session: Session) -> None:
    Outbox.of(session).before_commit(session)


def _after_commit(session: Session) -> None:
    Outbox.of(session).after_commit(session)


# Raw, and with a value returned: SQLAlchemy then calls it without a function of its own in between, for each job.
@event.listens_for(Job, "before_insert", propagate=True, raw=True, retval=True)
def _land(mapper: Any, connection: Connection, state: InstanceState[Job]) -> Any:
    job: Any = state.obj()
    hooks.writing(job)
    if (session := state.session) is not None:
        Outbox.of(session, flushing=True).land(session, connection, job)
    return EXT_CONTINUE


# Of all sessions, since to listen to each would cost more; it comes only for what leaves one unwritten. Raw, for the
# object itself may be gone by then.
@event.listens_for(Session, "pending_to_transient", raw=True)
def _miss(session: Session, state: InstanceState[Any]) -> None:
    if issubclass(state.class_, Job) and isinstance(outbox := session.info.get(KEY), Outbox):
        outbox.miss(session, state)


@event.listens_for(Session, "persistent_to_transient", raw=True)
def _take_back(session: Session, state: InstanceState[Any]) -> None:
    if issubclass(state.class_, Job) and isinstance(outbox := session.info.get(KEY), Outbox):
        outbox.take_back(state)


@event.listens_for(Job, "before_update", propagate=True)
def _change(mapper: Any, connection: Connection, job: Job) -> None:
    if (session := object_session(job)) is not None:
        Outbox.of(session, flushing=True).change(session, connection, job)


__all__ = ["ANNOUNCE", "KEY", "SOON", "Outbox", "stage"]
