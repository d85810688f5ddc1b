"""What one session announces: each queue that received an available job, once in each transaction.

An announcement says how many jobs became available (`News`), and whether some are due soon.

It is only the shortcut: a runner that hears nothing finds the job by polling. PostgreSQL delivers a notification when
its transaction commits, and forgets it with what rolls back. When a queue is announced:

    a flush wrote a job for the queue
    |
    +- the session doesn't end the transaction (it was given a connection),
    |  or it is on AUTOCOMMIT, or the flush belongs to a commit already ------> with the flush
    |
    +- no other session of this process is committing jobs of the queue, and
    |  no other open transaction has announced it with a flush --------------> with the flush: the commit needn't wait
    |
    +- others are committing as well ----------------------------------------> as the session commits, by one of those
                                                                               that commit (`concurrent_commits`)

A session may leave its announcement to the commit of another session, and learn after its own commit that the other
did not send it, as when that commit failed. Then it announces itself, on the same connection, in a transaction that
writes nothing and so does not wait for the disk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import timedelta
from itertools import repeat
from typing import Any, Final, Self, TypeAlias
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, Pool, TwoPhaseTransaction
from sqlalchemy.orm import Session, SessionTransaction

from oban_sa.errors import InvalidOption
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.outbox import concurrent_commits as commits
from oban_sa.outbox.concurrent_commits import Commit, Transaction
from oban_sa.schedule import clock
from oban_sa.sql import notify
from oban_sa.sql.notify import Notice
from oban_sa.wire.messages import News

ANNOUNCE: Final = "oban_announce"
"""False under this name switches announcements off: in a session's `info`, or in the execution options of an engine,
a session or a connection."""

SOON: Final = timedelta(seconds=0.95)
"""Scheduled jobs that are due within this time are announced like available ones; a runner finds later ones in time by
itself, for it looks every second."""

_AVAILABLE: Final = JobState.AVAILABLE  # Python 3.11 takes longer to find a member than to compare it

_Queues: TypeAlias = dict[tuple[Connection, str], News | None]
"""Which queues received jobs on which connection: what is to be said of them, or None where that was announced."""


def is_announced(bind: Connection | Engine, session: Session | None = None) -> bool:
    """Whether jobs that are written on `bind`, by `session` or without one, are announced.

    They are unless one of the two says otherwise under `ANNOUNCE`, or their transaction can't notify.
    """
    if bind.get_execution_options().get(ANNOUNCE, True) is False or bind.dialect.name != "postgresql":
        return False
    if session is not None and session.info.get(ANNOUNCE, True) is False:
        return False
    # PostgreSQL refuses to prepare a transaction that has notified.
    if isinstance(bind, Connection):
        return not isinstance(bind.get_transaction(), TwoPhaseTransaction)
    return session is None or not session.twophase


def concerns_runners(loaded: Mapping[str, Any]) -> bool:
    """Whether runners are to hear of a job: it is available, or due before they look for due jobs by themselves."""
    state = loaded.get("state", _AVAILABLE)
    if state != JobState.SCHEDULED:
        return state == _AVAILABLE  # type: ignore[no-any-return]
    moment = loaded.get("scheduled_at")
    if isinstance(moment, Later):
        return moment.span <= SOON
    return moment is not None and moment <= clock.now() + SOON


def add_news(queues: dict[str, News], jobs: Iterable[Job]) -> None:
    """Add to `queues` what runners are to hear of new jobs."""
    for loaded in map(vars, jobs):
        add_one(queues, loaded)


def add_one(queues: dict[str, News], loaded: Mapping[str, Any]) -> None:
    """Add to `queues` what runners are to hear of a new job, whose attributes are `loaded`."""
    if not concerns_runners(loaded):
        return
    queue = loaded.get("queue", "default")
    if (news := queues.get(queue)) is None:
        news = queues[queue] = News()
    if loaded.get("state", _AVAILABLE) != _AVAILABLE:
        news.due = True
    elif news.jobs is not None:
        news.jobs += 1


class Announcements:
    """Remembers, for each transaction and savepoint of a session, what to announce and what was announced."""

    __slots__ = ("_commits", "_committing", "_connections", "_queues")

    def __init__(self) -> None:
        self._queues: WeakKeyDictionary[SessionTransaction, _Queues] = WeakKeyDictionary()
        self._committing: ReferenceType[SessionTransaction] | None = None
        # By their pools: engines with other options share them, and other databases have pools of their own.
        self._commits: dict[Pool, Commit] = {}
        self._connections: dict[Pool, Connection] = {}

    def receive(
        self, session: Session, connection: Connection, queues: Mapping[str, News], *, at_once: bool
    ) -> Notice | None:
        """Remember which jobs queues received on `connection`; return what to announce with this flush.

        `at_once` is for the flush that may belong to a commit of which `before_commit` was missed.
        """
        if not is_announced(connection, session):
            return None
        transactions = list(_outwards(session))
        known = [self._queues[each] for each in transactions if each in self._queues]
        fresh = {queue: news for queue, news in queues.items() if not _joined(news, (connection, queue), known)}
        if not fresh:
            return None
        here = self._queues.setdefault(transactions[0], {})
        here.update({(connection, queue): news for queue, news in fresh.items()})
        with_flush = at_once or not _ends(session, connection)
        if not with_flush and self._committing is not None and self._committing() is transactions[-1]:
            return self._share(transactions, connection)
        if with_flush or _announces_early(connection, fresh):
            return _notice(self._take(transactions, connection), schema_of(connection))
        return None

    def sent(self, connection: Connection) -> None:
        """Say that what was last to be announced on `connection` was sent."""
        if (commit := self._commits.get(connection.engine.pool)) is not None:
            commit.sent()

    def before_commit(self, session: Session, unwritten: Iterable[str]) -> Iterator[tuple[Connection, Notice]]:
        """Yield what to announce before the session commits, and on which connection.

        `unwritten` are the queues of jobs that the flush of this very commit is about to write.
        """
        root = session.get_transaction()
        if root is None or session.get_nested_transaction() is not None:
            return  # a savepoint is released
        self._committing, self._commits, self._connections = ref(root), {}, {}
        if unwritten and (engine := _engine(session)) is not None and is_announced(engine, session):
            commit = self._commits[engine.pool] = Commit(engine.pool, root)
            schema = schema_of(engine)
            commit.join((schema, queue) for queue in unwritten)
        for connection in {connection for connection, _ in self._queues.get(root, ())}:
            if notice := self._share([root], connection):
                yield connection, notice

    def after_commit(self, session: Session) -> None:
        """Hand what a savepoint received to the transaction around it; after the last, announce what is left."""
        ended = session.get_nested_transaction() or session.get_transaction()
        received = {} if ended is None else self._queues.pop(ended, {})
        if ended is not None and ended.parent is not None:
            self._queues.setdefault(ended.parent, {}).update(received)
            return
        commits, connections = self._commits, self._connections
        self._committing, self._commits, self._connections = None, {}, {}
        late: dict[Connection, set[tuple[str, str]]] = {}
        for pool, commit in commits.items():
            if pool not in connections:  # a listener took its jobs away before they were written
                commit.passed()
            elif left := commit.committed():
                late.setdefault(connections[pool], set()).update(left)
        for (connection, queue), news in received.items():
            if news is not None:  # committed over savepoints that nothing had released
                late.setdefault(connection, set()).add((schema_of(connection), queue))
        for connection, keys in late.items():
            announce_late(connection, keys)

    def _share(self, transactions: list[SessionTransaction], connection: Connection) -> Notice | None:
        """Return this commit's share of what is to be announced; other commits under way announce the rest."""
        queues, schema = self._take(transactions, connection), schema_of(connection)
        transaction = connection.get_transaction()
        if not queues or transaction is None:  # or a listener ended it behind the session's back
            return _notice(queues, schema)
        pool = connection.engine.pool
        if pool not in self._commits:
            self._commits[pool] = Commit(pool, transaction)
        self._connections[pool] = connection
        return _shared(self._commits[pool], queues, schema, transaction)

    def _take(self, transactions: list[SessionTransaction], connection: Connection) -> dict[str, News]:
        """Return what is to be announced of which queues, and mark them as announced."""
        found: dict[str, News] = {}
        for queues in [self._queues[each] for each in transactions if each in self._queues]:
            here = {key: news for key, news in queues.items() if news is not None and key[0] is connection}
            queues.update(dict.fromkeys(here))
            found.update({queue: news for (_, queue), news in here.items()})
        return found


class Announcement(Commit):
    """What one statement announces that commits by itself, as the commit of a session would.

    Enter it right before the statement, which is to send `notice`; when it is left without an error, the jobs are
    committed, and `late` has what other commits had left to each other and no other will announce: `announce_late` it.
    """

    __slots__ = ("is_active", "late", "notice")

    def __init__(self, engine: Engine, queues: Mapping[str, News], schema: str | None = None) -> None:
        """`queues` are those that the statement writes jobs for, with what runners are to hear of them.

        `schema` is given by who has found that the engine announces, and where.
        """
        super().__init__(engine.pool, self)
        self.is_active = True
        self.notice: Notice | None = None
        self.late: Collection[tuple[str, str]] = ()
        """Schemas and queues."""
        if queues and (schema is not None or is_announced(engine)):
            self.notice = _shared(self, queues, schema or schema_of(engine), self)

    def __enter__(self) -> Self:
        self.sent()  # and committed at the same time, so that no other can be covered from here on
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.is_active = False
        if error is None:
            self.late = self.committed()


def _shared(commit: Commit, queues: Mapping[str, News], schema: str, transaction: Transaction) -> Notice | None:
    """Return what a commit announces itself; other commits under way announce the rest."""
    mine = commit.announces(zip(repeat(schema), queues), transaction)
    if len(mine) == len(queues):  # as nearly always
        return _notice(queues, schema)
    said = {queue: queues[queue] for _, queue in mine}
    # The other commit does not say for this one that a job is due soon.
    said.update({queue: News(0, due=True) for queue, news in queues.items() if news.due and queue not in said})
    return _notice(said, schema)


def announce_late(connection: Connection, keys: Collection[tuple[str, str]]) -> None:
    """Announce queues of schemas after their jobs were committed, in a transaction of its own; never raises."""
    # Where something else goes on with the connection by now, that is not ours to commit.
    if not keys or connection.closed or connection.invalidated or connection.in_transaction():
        return
    try:
        for schema in {schema for schema, _ in keys}:
            # Jobs of other commits as well, of which it is not known how many they are, nor whether some are due soon.
            if notice := _notice({queue: News(jobs=None, due=True) for each, queue in keys if each == schema}, schema):
                connection.execute(notify.NOTIFY, notice.parameters())
        connection.commit()
    except Exception:  # the jobs are committed, and runners find them by polling
        with contextlib.suppress(Exception):
            connection.rollback()


def _outwards(session: Session) -> Iterator[SessionTransaction]:
    """Walk from the innermost savepoint through those around it to the transaction: each rolls back what is inside."""
    transaction = session.get_nested_transaction() or session.get_transaction()
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def _announces_early(connection: Connection, queues: Iterable[str]) -> bool:
    transaction = connection.get_transaction()
    if transaction is None or connection.in_nested_transaction():  # a savepoint may roll back and take it along
        return False
    schema = schema_of(connection)
    return commits.announces_early(connection.engine.pool, [(schema, queue) for queue in queues], transaction)


def _ends(session: Session, connection: Connection) -> bool:
    """Whether the session surely ends the transaction it is in, and its jobs can't be seen before."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return False
    return _engine(session) is not None


def _engine(session: Session) -> Engine | None:
    """The engine that jobs go to, or None where the session was given a connection: others may end its transaction."""
    try:
        bind = session.get_bind(Job.__mapper__)
    except Exception:  # an application's own way to choose, which wants to know more
        return None
    return None if isinstance(bind, Connection) else bind


def _joined(news: News, key: tuple[Connection, str], known: Iterable[_Queues]) -> bool:
    """Whether the queue was remembered before, and need not be again; what is still to be said of it is added up."""
    for queues in known:
        if key in queues:
            before = queues[key]
            if before is None:
                return not news.due  # what was announced said nothing of that
            before.jobs = None if before.jobs is None or news.jobs is None else before.jobs + news.jobs
            before.due = before.due or news.due
            return True
    return False


def _notice(news: Mapping[str, News], schema: str) -> Notice | None:
    if len(news) > 1:
        news = {queue: news[queue] for queue in sorted(news)}
    try:
        return notify.counted(news, schema) if news else None
    except InvalidOption:  # no channel can bear the name of this schema; its runners poll
        return None


def schema_of(bind: Connection | Engine) -> str:
    """Return the schema in which a connection or an engine finds the tables of jobs."""
    return schema_named(bind) or "public"


def schema_named(bind: Connection | Engine) -> str | None:
    """Return the schema in which a connection or an engine finds the tables; None where that is its default one."""
    translated: Mapping[str | None, str | None] | None = bind.get_execution_options().get("schema_translate_map")
    return "public" if translated is None else translated.get("public", "public")
