"""What a session's unit of work does for jobs, in the order in which it happens.

A job is an ordinary pending object from `session.add` on, so the session itself keeps the promises: what flushes,
rolls back, expunges or closes does so for jobs too. Listeners to all sessions, which look whether a session has an
outbox, and an action in the flush (`save_action`) add to that; bulk inserts pass both by, so theirs get none of it:

1. `stage`: `enqueue` puts jobs into the session. Those that came by `session.add` or a cascade begin with the next.
2. `insert`, for each job of a flush before its INSERT: it is admitted (`admission`), its references become values as
   far as they are known (`resolution`), and its queue is remembered where runners are to hear of it.
3. `write`: all new jobs of the flush are inserted, and their queues announced, in one statement (`rows`). Where one of
   them is no plain job, the mapper inserts them all, and an event of it calls `insert` for each.
4. `finish_flush`: what references turned out to be only later is written, and queues that the mapper wrote jobs for are
   announced, in one statement.
5. `before_commit`, `after_commit`: what flushes left to the commit is announced (`announcements`).

Where the session writes jobs and data on several connections, the flush and the commit are refused (`atomicity`). Where
the session ends without having written what was staged, a warning tells of it (`unwritten`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from sqlalchemy import Connection, event
from sqlalchemy.orm import InstanceState, Session, UOWTransaction

from oban_sa import hooks
from oban_sa.errors import InvalidJob
from oban_sa.jobs.values import is_flat
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.outbox import enqueued, listeners, save_action, unwritten
from oban_sa.outbox.admission import admit
from oban_sa.outbox.announcements import Announcements, add_news, add_one, concerns_runners
from oban_sa.outbox.atomicity import Homes
from oban_sa.outbox.resolution import Resolution
from oban_sa.outbox.rows import rows, take_in, written
from oban_sa.outbox.sessions import by_connection
from oban_sa.sql import notify
from oban_sa.sql import references as resolved
from oban_sa.sql.notify import Notice
from oban_sa.wire.messages import News

if TYPE_CHECKING:  # most programs have no unique jobs
    from oban_sa.outbox.unique import Claims

KEY: Final = "oban"
"""The one key that a session's `info` gets."""


class Outbox:
    """What one session's flush is writing, and what its transaction announces."""

    __slots__ = (
        "_announcements",
        "_at_once",
        "_claims",
        "_enqueued",
        "_homes",
        "_is_prepared",
        "_owner",
        "_queues",
        "_resolution",
        "_staged",
    )

    def __init__(self, session: Session, *, flushing: bool) -> None:
        self._owner = ref(session)  # weak: the session holds the outbox
        self._staged: Job | None = None
        """The last job that was staged and waits to be written."""
        self._queues: dict[Connection, dict[str, News]] = {}
        """The queues that get jobs in this flush, and which, on each connection that writes jobs."""
        self._resolution: Resolution | None = None  # until a job has a reference or a span
        self._claims: Claims | None = None  # until a job is unique
        self._homes = Homes()
        # Set where `insert` was called for all jobs of this flush, and then the mapper was left to write them.
        self._is_prepared = False
        # The flush may belong to a commit whose beginning was missed.
        self._at_once = flushing
        self._announcements = Announcements()
        self._enqueued: enqueued.Enqueued | None = None  # until anything listens

    @classmethod
    def of(cls, session: Session, *, flushing: bool = False) -> Outbox:
        """Return the session's outbox, or make it the first time, which may be as late as in a flush."""
        outbox = session.info.get(KEY)
        # An `info` copied from another session brings that one's outbox along.
        if isinstance(outbox, cls) and outbox._owner() is session:
            return outbox
        session.info[KEY] = outbox = cls(session, flushing=flushing)
        return outbox

    @classmethod
    def found(cls, session: Session) -> Outbox | None:
        """Return the session's outbox, or None where it has had no jobs yet."""
        # Not `session.info`, which would make one for each session of the program.
        info: dict[object, object] | None = session.__dict__.get("info")
        if info is None:
            return None
        outbox = info.get(KEY)
        return outbox if isinstance(outbox, cls) and outbox._owner() is session else None

    @classmethod
    def stage(cls, session: Session, jobs: list[Job]) -> None:
        """Put jobs that were accepted, one or more, into the session; raises `SessionEnded` where it is too late."""
        if not session.is_active:
            unwritten.refuse_ended(session)
        outbox = cls.of(session)  # now, so that it sees the beginning of the commit
        session.add_all(jobs)
        outbox._staged = jobs[-1]

    def begin_flush(self, session: Session) -> None:
        """Forget what a failed flush left behind, and claim the unique keys that have to be claimed before a flush."""
        self._queues = {}
        self._is_prepared = False
        if self._resolution is not None:
            self._resolution.begin()
        self._at_once = False
        if self._claims is not None:
            self._claims.begin()
            self._claim_early(session, self._claims)

    def insert(self, session: Session, connection: Connection, jobs: Iterable[Job]) -> None:
        """Admit and prepare jobs that are about to be inserted on `connection`."""
        queues = self._queues.get(connection)
        if queues is None:  # the first of this flush
            self._staged = None
            self._homes.add(connection)
            queues = self._queues[connection] = {}
        for job in jobs:
            loaded = vars(job)
            if "_unique" in loaded:  # told of once it has its key
                self._prepare_unique(session, connection, job)
                continue
            admit(job)
            if not (is_flat(loaded.get("args")) and is_flat(loaded.get("meta"))):
                self._resolve().insert(session, connection, job)
            add_one(queues, loaded)

    def write(self, session: Session, connection: Connection, jobs: list[Job]) -> bool:
        """Insert the new jobs of a flush in their order, and announce them; False where the mapper has to do it."""
        self.insert(session, connection, jobs)
        if self._claims is not None:
            return self._write_unique(session, connection, jobs, self._claims)
        found = rows(jobs)
        if found is None:
            self._is_prepared = True
            return False
        queues, self._queues[connection] = self._queues[connection], {}
        notice = self._announcements.receive(session, connection, queues, at_once=self._at_once)
        for answer, these in written(connection, found, notice, returning=True):
            take_in(answer, jobs[these])
        if notice is not None:
            self._announcements.sent(connection)
        return True

    def claim(self, session: Session, connection: Connection, jobs: list[Job]) -> list[InstanceState[Job]]:
        """Claim the keys of jobs that the mapper is about to insert, and return the states of those that it must not.

        Of `jobs` those are claimed that are unique, and were not before.
        """
        unique = [job for job in jobs if "_unique" in vars(job)]
        if not self._is_prepared:
            self.insert(session, connection, unique)
        if not unique or (claims := self._claims) is None:
            return []
        claims.claim(connection, unique)
        claims.give_ids()
        add_news(self._queues[connection], [*claims.won(unique)[0], *claims.sooner()])
        return claims.lost()

    def insert_by_mapper(self, session: Session, connection: Connection, job: Job) -> None:
        """Prepare a job that the mapper is about to insert on `connection`."""
        if "_unique" in vars(job):
            if self._claims is None or not self._claims.is_decided(job):
                raise InvalidJob(f"{job} is unique, and its key can't be claimed in a flush of this kind")
        elif not self._is_prepared:
            self.insert(session, connection, (job,))
        if isinstance(vars(job).get("scheduled_at"), Later) or not connection.dialect.insert_executemany_returning:
            self._resolve().date(session, connection, job)

    def update(self, session: Session, connection: Connection, job: Job) -> None:
        """Prepare a job that is about to be updated on `connection`."""
        self._resolve().update(session, connection, job)

    def finish_flush(self, session: Session, context: UOWTransaction) -> None:
        """Write what references turned out to be, and announce: one statement on each connection that wrote jobs."""
        self._homes.check(session)
        if hooks.JOBS_ENQUEUED.on:
            self._told().flushed(session, context)
        queues, self._queues = self._queues, {}
        at_once, self._at_once = self._at_once, False
        self._is_prepared = False
        if self._claims is not None:
            if self._resolution is not None:
                self._resolution.drop(self._claims.lost())
            self._claims.finish(session, context)
        changed = {} if self._resolution is None else self._resolution.finish()
        for connection in changed.keys() | queues.keys():
            rows = changed.get(connection)
            told = queues.get(connection)
            notice = self._announcements.receive(session, connection, told, at_once=at_once) if told else None
            if rows and notice:
                connection.execute(resolved.RESOLVE_AND_NOTIFY, {**resolved.rows(rows), **notice.parameters()})
                self._announcements.sent(connection)
            elif rows:
                connection.execute(resolved.RESOLVE, resolved.rows(rows))
            elif notice:
                self._announce(connection, notice)

    def receive(self, session: Session, connection: Connection, queues: set[str]) -> None:
        """Take in jobs that a statement, and no flush, wrote on `connection`: available ones for `queues`."""
        self._homes.add(connection)
        news = {queue: News(jobs=None) for queue in queues}
        if notice := self._announcements.receive(session, connection, news, at_once=False):
            self._announce(connection, notice)

    def join(self, session: Session, connection: Connection, queues: Mapping[str, News]) -> Notice | None:
        """Take in jobs that a statement is about to write on `connection`, and return what it is to announce.

        `queues` is what `add_news` made. Where there is something to announce, call `sent` after the statement.
        """
        self._homes.add(connection)
        return self._announcements.receive(session, connection, queues, at_once=False)

    def sent(self, connection: Connection) -> None:
        """Say that a statement on `connection` announced what `join` returned for it."""
        self._announcements.sent(connection)

    def count(self, session: Session, connection: Connection, counts: enqueued.Counts) -> None:
        """Count jobs that a statement, and no flush, wrote on `connection`, where anything listens."""
        if counts and hooks.JOBS_ENQUEUED.on:
            enqueued.merge(self._told().here(session, connection), counts)

    def before_commit(self, session: Session) -> None:
        """Announce what earlier flushes wrote; raises `JobElsewhere` where they wrote apart from the data."""
        if session.get_nested_transaction() is None:
            self._homes.check(session)
        unwritten_yet: set[str] = set()
        for each in session.new:
            if isinstance(each, Job):
                queue = vars(each).get("queue", "default")
                if queue not in unwritten_yet and concerns_runners(vars(each)):
                    unwritten_yet.add(queue)
        for connection, notice in self._announcements.before_commit(session, unwritten_yet):
            self._announce(connection, notice)

    def after_commit(self, session: Session) -> None:
        """Keep what a savepoint wrote for the end of the transaction; after that, announce what is left."""
        if self._resolution is not None and session.get_nested_transaction() is None:
            self._resolution.keep()
        self._announcements.after_commit(session)
        if self._enqueued is not None:
            self._enqueued.after_commit(session)

    def take_back(self, state: InstanceState[Any]) -> None:
        """Give a job its references back: it has no row any more, as what had written it was rolled back."""
        if self._claims is not None:
            self._claims.restore(state)
        if self._resolution is not None:
            self._resolution.restore(state)

    def miss(self, session: Session, state: InstanceState[Any]) -> None:
        """Let go of a job that leaves the session unwritten, and warn of it where that is because the session ends."""
        self.take_back(state)
        if self._staged is None:
            return
        if unwritten.is_closing(session):
            staged, self._staged = self._staged, None
            unwritten.tell_of_closing(session, staged)
        elif state.obj() is self._staged:
            self._staged = next((each for each in session.new if isinstance(each, Job)), None)

    def __del__(self) -> None:
        """Warn of a job that the session was forgotten with."""
        if self._staged is not None:
            unwritten.tell_of_forgetting(self._staged)

    def _resolve(self) -> Resolution:
        if self._resolution is None:
            self._resolution = Resolution()
        return self._resolution

    def _told(self) -> enqueued.Enqueued:
        if self._enqueued is None:
            self._enqueued = enqueued.Enqueued()
        return self._enqueued

    def _prepare_unique(self, session: Session, connection: Connection, job: Job) -> None:
        """Admit a unique job and make JSON of it, as all of it may be part of its key."""
        from oban_sa.outbox.unique import Claims, check_known

        if self._claims is None:
            self._claims = Claims()
        elif self._claims.is_decided(job):
            return  # before the flush, after it was admitted
        admit(job)
        loaded = vars(job)
        if not (is_flat(loaded.get("args")) and is_flat(loaded.get("meta"))):
            resolution = self._resolve()
            resolution.insert(session, connection, job)
            check_known(job, resolution.waiting(job))

    def _claim_early(self, session: Session, claims: Claims) -> None:
        from oban_sa.outbox.claim import must_come_early
        from oban_sa.outbox.unique import refers

        found = [each for each in session.new if isinstance(each, Job) and "_unique" in vars(each)]
        if not (jobs := [job for job in found if not refers(job)]) or session.connection_callable is not None:
            return
        connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
        if must_come_early(connection):
            for job in jobs:
                self._prepare_unique(session, connection, job)
            claims.claim(connection, jobs)

    def _write_unique(self, session: Session, connection: Connection, jobs: list[Job], claims: Claims) -> bool:
        """Claim the keys of unique jobs, and insert those that get them, and the others; as `write` does."""
        plain = [job for job in jobs if "_unique" not in vars(job)]
        unique = [job for job in jobs if "_unique" in vars(job)]
        claims.claim(connection, unique)
        won, ids = claims.won(unique)
        parts = [(plain, rows(plain), None), (won, rows(won), ids)]
        if any(found is None for _, found, _ in parts):
            self._is_prepared = True
            return False
        queues, self._queues[connection] = self._queues[connection], {}
        add_news(queues, [*won, *claims.sooner()])
        notice = self._announcements.receive(session, connection, queues, at_once=self._at_once) if queues else None
        parts = [part for part in parts if part[1]]
        for these, found, identities in parts:
            told = notice if these is parts[-1][0] else None
            for answer, some in written(connection, found or [], told, returning=True, ids=identities):
                take_in(answer, these[some])
        if notice is not None:
            if not parts:
                connection.execute(notify.NOTIFY, notice.parameters())
            self._announcements.sent(connection)
        return True

    def _announce(self, connection: Connection, notice: Notice) -> None:
        connection.execute(notify.NOTIFY, notice.parameters())
        self._announcements.sent(connection)


def _write(session: Session, states: list[InstanceState[Job]]) -> bool:
    connection = session.connection(bind_arguments={"mapper": Job.__mapper__})
    if connection.dialect.name != "postgresql":
        return False
    jobs = [job for state in states if (job := state.obj()) is not None]  # always, as the session holds them
    outbox = Outbox.of(session, flushing=True)
    if hooks.AROUND_INSERT.hooks:
        with hooks.together():
            return outbox.write(session, connection, jobs)
    return outbox.write(session, connection, jobs)


def _claim(session: Session, states: list[InstanceState[Job]]) -> list[InstanceState[Job]]:
    """Claim the keys of unique jobs that the mapper is about to insert, and return those that it must not insert."""
    outbox = Outbox.of(session, flushing=True)
    each = by_connection(session, states).items()
    return [state for connection, jobs in each for state in outbox.claim(session, connection, jobs)]


save_action.join(_write, _claim)


# To all sessions, since to listen to each that has jobs costs it more than all others together: they return at once
# where there is no outbox. A listener of one session, too, could not be added while SQLAlchemy goes through them, as
# where `enqueue` is called by another.


@event.listens_for(Session, "before_flush")
def _begin_flush(session: Session, context: UOWTransaction, objects: object) -> None:
    if (outbox := Outbox.found(session)) is not None:
        outbox.begin_flush(session)


@event.listens_for(Session, "after_flush")
def _finish_flush(session: Session, context: UOWTransaction) -> None:
    if (outbox := Outbox.found(session)) is not None:
        outbox.finish_flush(session, context)


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if (outbox := Outbox.found(session)) is not None:
        outbox.before_commit(session)


@event.listens_for(Session, "after_commit")
def _after_commit(session: Session) -> None:
    if (outbox := Outbox.found(session)) is not None:
        outbox.after_commit(session)


listeners.join(Outbox)
