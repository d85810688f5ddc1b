"""What one session announces: each queue that received an available job, once in each transaction.

A flush announces right away where nobody else is about to (`commits.announces_early`), so that its commit does not wait
for that, in a transaction that somebody else began, and on AUTOCOMMIT. Where others commit jobs as well, a session
announces as it commits, so that those which commit side by side can leave it to one of them (`commits`). What others
were relied on for in vain is announced right after the commit, on the same connection, in a transaction that writes
nothing and so waits for no disk. PostgreSQL delivers on commit and forgets with what rolls back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias
from weakref import ReferenceType, WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, Pool, TwoPhaseTransaction
from sqlalchemy.orm import Session, SessionTransaction

from oban_sa import commits
from oban_sa.commits import Commit
from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.sql import notifying

ANNOUNCE: Final = "oban_announce"
"""False under this name switches announcements off: in a session's `info`, or in the execution options of an engine,
a session or a connection."""

_Queues: TypeAlias = dict[tuple[Connection, str], bool]
"""Which queues received jobs on which connection, and whether that was announced."""


class Announcing:
    """Remembers by (nested) transaction what it has to announce, and what it has announced."""

    __slots__ = ("_commits", "_committing", "_connections", "_queues", "_sees_commits")

    def __init__(self, *, sees_commits: bool) -> None:
        """`sees_commits` says that `before_commit` will be called."""
        self._sees_commits = sees_commits
        self._queues: WeakKeyDictionary[SessionTransaction, _Queues] = WeakKeyDictionary()
        self._committing: ReferenceType[SessionTransaction] | None = None
        # By their pools: engines with other options share them, and other databases have pools of their own.
        self._commits: dict[Pool, Commit] = {}
        self._connections: dict[Pool, Connection] = {}

    def receive(
        self, session: Session, connection: Connection, queues: Iterable[str], *, at_once: bool
    ) -> dict[str, str] | None:
        """Take note of queues that received jobs on `connection`; return what is to be announced with this flush.

        `at_once` is for the flush that may belong to a commit whose beginning nobody saw.
        """
        if not _announces(session, connection):
            return None
        transactions = list(_outwards(session))
        known = [self._queues[each] for each in transactions if each in self._queues]
        fresh = [queue for queue in queues if not any((connection, queue) in each for each in known)]
        if not fresh:
            return None
        self._queues.setdefault(transactions[0], {}).update({(connection, queue): False for queue in fresh})
        by_itself = at_once or not self._sees_commits or not _ends(session, connection)
        if not by_itself and self._committing is not None and self._committing() is transactions[-1]:
            return self._depart(transactions, connection)
        if by_itself or _announces_early(connection, fresh):
            return _news(self._waiting(transactions, connection), _schema(connection.get_execution_options()))
        return None

    def sent(self, connection: Connection) -> None:
        """Say that what was last to be announced on `connection` was sent."""
        if (commit := self._commits.get(connection.engine.pool)) is not None:
            commit.sent()

    def before_commit(self, session: Session, staged: Iterable[str]) -> Iterator[tuple[Connection, dict[str, str]]]:
        """Yield what is to be announced on which connection before the session commits; `staged` is not written yet."""
        root = session.get_transaction()
        if root is None or session.get_nested_transaction() is not None:
            return  # a savepoint is released
        self._committing, self._commits, self._connections = ref(root), {}, {}
        if staged and (engine := _engine(session)) is not None and session.info.get(ANNOUNCE, True) is not False:
            options = engine.get_execution_options()
            if options.get(ANNOUNCE, True) is not False and not session.twophase:
                commit = self._commits[engine.pool] = Commit(engine.pool, root)
                schema = _schema(options)
                commit.join((schema, queue) for queue in staged)
        for connection in {connection for connection, _ in self._queues.get(root, ())}:
            if news := self._depart([root], connection):
                yield connection, news

    def after_commit(self, session: Session) -> None:
        """Hand what a savepoint received to the transaction around it; after the end of all, announce what is owed."""
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
            elif owed := commit.committed():
                late.setdefault(connections[pool], set()).update(owed)
        for (connection, queue), announced in received.items():
            if not announced:  # committed over savepoints that nobody had released
                late.setdefault(connection, set()).add((_schema(connection.get_execution_options()), queue))
        for connection, keys in late.items():
            _announce_late(connection, keys)

    def _depart(self, transactions: list[SessionTransaction], connection: Connection) -> dict[str, str] | None:
        """Return what this session announces of all that waits; the rest others do, who are committing as well."""
        waiting = self._waiting(transactions, connection)
        schema = _schema(connection.get_execution_options())
        transaction = connection.get_transaction()
        if not waiting or transaction is None:  # or somebody ended it behind the session's back
            return _news(waiting, schema)
        pool = connection.engine.pool
        if pool not in self._commits:
            self._commits[pool] = Commit(pool, transaction)
        self._connections[pool] = connection
        mine = self._commits[pool].announces([(schema, queue) for queue in waiting], transaction)
        return _news([queue for _, queue in mine], schema)

    def _waiting(self, transactions: list[SessionTransaction], connection: Connection) -> list[str]:
        """Return the queues that wait to be announced, and take them for announced from now on."""
        found: list[str] = []
        for queues in [self._queues[each] for each in transactions if each in self._queues]:
            here = [key for key, announced in queues.items() if not announced and key[0] is connection]
            queues.update(dict.fromkeys(here, True))
            found += [queue for _, queue in here]
        return found


def _announce_late(connection: Connection, owed: set[tuple[str, str]]) -> None:
    # Whatever else goes on with the connection by now is not ours to commit.
    if not owed or connection.closed or connection.invalidated or connection.in_transaction():
        return
    try:
        for schema in {schema for schema, _ in owed}:
            if news := _news([queue for each, queue in owed if each == schema], schema):
                connection.execute(notifying.NOTIFY, news)
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


def _announces(session: Session, connection: Connection) -> bool:
    if session.info.get(ANNOUNCE, True) is False or connection.get_execution_options().get(ANNOUNCE, True) is False:
        return False
    # PostgreSQL refuses to prepare a transaction that has notified.
    return connection.dialect.name == "postgresql" and not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def _announces_early(connection: Connection, queues: Iterable[str]) -> bool:
    transaction = connection.get_transaction()
    if transaction is None or connection.in_nested_transaction():  # a savepoint may roll back and take it along
        return False
    schema = _schema(connection.get_execution_options())
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


def _news(queues: Collection[str], schema: str) -> dict[str, str] | None:
    try:
        return notifying.insertions(sorted(queues), schema) if queues else None
    except InvalidOption:  # no channel can bear the name of this schema; its runners poll
        return None


def _schema(options: Mapping[str, Any]) -> str:
    translated: dict[str | None, str | None] = options.get("schema_translate_map") or {}
    return translated.get("public") or "public"
