"""Which transactions of this process are committing, so that not each of them has to announce its jobs.

PostgreSQL lets only one transaction that notifies commit at a time, in the whole database, and it waits for the disk
meanwhile: commits that could have shared one wait follow one by one. So of the transactions that commit jobs of one
queue at the same time, one announces the queue, and the others leave it to that one. What one transaction goes through,
for each queue that it has jobs of:

    open
     |  the commit begins: `join`
     v
    committing
     |  its last flush is done: `announces`
     |
     +-- no announcer is under way -----> announcer: sends NOTIFY (`sent`), commits (`committed`)
     |                                      covers all that left it before the NOTIFY was sent
     |
     +-- an announcer is under way -----> left: commits without (`committed`)
                                            |
                                            +-- the announcer has not sent yet --> covered by it
                                            |
                                            +-- it has, or it failed; others
                                            |   are still committing ------------> the next announcer covers it, or
                                            |                                      the last of them announces late
                                            |
                                            +-- it has, or it failed; this was
                                                the last ------------------------> late: it announces after its commit

So every job is announced after it was committed, at most a commit later than it would have been, and a transaction that
meets no other announces for itself. A transaction may also announce in a flush, long before its commit
(`announces_early`); none relies on it, as its commit may never come.

Only this process is seen. Others announce as if they were alone, each with one such commit at a time for each queue.
Where an announcement is lost after all, with the process or its connection, runners find the job by polling.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Protocol, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

from oban_sa.schedule import clock

Key = TypeVar("Key", bound=Hashable)


class Transaction(Protocol):
    """A transaction of a session's or a connection's."""

    @property
    def is_active(self) -> bool:
        """Whether it has neither committed nor rolled back."""
        ...


PATIENCE: Final = 0.25
"""Seconds after which a commit no longer counts as under way; it may hang, or never end."""


class Commit:
    """A transaction on its way from the decision to commit to its end; it counts until then, or until it is forgotten.

    `database` is any object that stands for the database, and `transaction` says by `is_active` whether it has ended;
    neither is kept alive. Keys are queues. Safe to be used from any thread.
    """

    __slots__ = (
        "__weakref__",
        "_announced",
        "_began_at",
        "_database",
        "_joined",
        "_left",
        "_queues",
        "_self",
        "_sent",
        "_transaction",
    )

    def __init__(self, database: Any, transaction: Transaction) -> None:
        self._database = ref(database)
        self._queues: dict[Any, _Queue] = {}  # those of the database, once it has joined
        self._self: ReferenceType[Commit] = ref(self)
        self._transaction = ref(transaction)
        self._began_at = clock.monotonic()
        self._joined: dict[Any, _Queue] = {}
        self._announced: dict[Any, int] = {}
        """The keys that it announces, and how many of the commits that left theirs to others this covers."""
        self._left: set[Any] = set()
        self._sent = False

    def join(self, keys: Iterable[Hashable]) -> None:
        """Say that this transaction is about to commit jobs of `keys`, as early as that is known.

        Others rely on it then: after its commit it announces those of `keys` that no other commit has covered.
        """
        with _lock:
            for key in keys:
                self._join(key)

    def announces(self, keys: Iterable[Key], transaction: Transaction) -> list[Key]:
        """Return those of `keys` that this transaction announces before it commits; it leaves the rest to others.

        `transaction` is from now on what says by `is_active` whether it has ended.
        """
        mine: list[Key] = []
        now = clock.monotonic()
        with _lock:
            self._transaction = ref(transaction)
            for key in keys:
                queue = self._join(key)
                announcer = queue.announcer()
                if announcer is not None and announcer.is_under_way(now):
                    self._left.add(key)
                else:
                    queue.announcer = self._self
                    self._announced[key] = queue.left
                    mine.append(key)
        return mine

    def is_under_way(self, now: float) -> bool:
        """Whether this commit has neither ended nor taken longer than `PATIENCE`."""
        if now - self._began_at > PATIENCE:
            return False
        transaction = self._transaction()
        return transaction is not None and transaction.is_active

    def _join(self, key: Hashable) -> _Queue:
        if (queue := self._joined.get(key)) is None:
            if not self._joined:
                self._queues = _queues_of(self._database())
            if (queue := self._queues.get(key)) is None:
                queue = self._queues[key] = _Queue()
            self._joined[key] = queue
            queue.committing.add(self._self)
        return queue

    def sent(self) -> None:
        """Say that its NOTIFY was sent: from now on it may commit before one that has left its queues to it."""
        self._sent = True

    def passed(self) -> None:
        """Say that it is over and has no connection to announce late on."""
        with _lock:
            for queue in self._joined.values():
                queue.committing.discard(self._self)
            self._joined = {}

    def committed(self) -> list[Any]:
        """Return the keys to announce now, after the commit: no commit under way is left that would cover them."""
        late: list[Any] = []
        if not self._joined:
            return late
        now = clock.monotonic()
        with _lock:
            queues = self._queues
            for key, queue in self._joined.items():
                queue.committing.discard(self._self)
                announcer = queue.announcer()
                if announcer is self:
                    queue.announcer = _no_commit
                if key in self._announced:
                    queue.covered = max(queue.covered, self._announced[key])
                if key in self._left:
                    queue.left += 1
                    if announcer is not None and not announcer._sent:
                        announcer._announced[key] = queue.left  # it can't have committed before this one
                if queue.committing:  # those that are gone without a word don't count
                    queue.committing = {other for other in queue.committing if other() is not None}
                if queue.left > queue.covered and not any(_is_under_way(other(), now) for other in queue.committing):
                    queue.covered = queue.left
                    late.append(key)
                if not queue.committing and queue.left == queue.covered and queues.get(key) is queue:
                    del queues[key]
            self._joined = {}
        return late


def announces_early(database: Any, keys: Iterable[Hashable], transaction: Transaction) -> bool:
    """Whether `transaction`, which is not about to commit yet, announces `keys` with its flush.

    It does where no transaction is committing jobs of one of them, and no other open one has announced one early.
    """
    wanted = set(keys)
    with _lock:
        early = _early.setdefault(database, WeakKeyDictionary())
        others = [taken for other, taken in early.items() if other is not transaction and other.is_active]
        if not wanted.isdisjoint(_databases.get(database, ())) or not all(map(wanted.isdisjoint, others)):
            return False
        early.setdefault(transaction, set()).update(wanted)
        return True


class _Queue:
    """The commits of one queue: `left` counts those that left it to others, the first `covered` are announced."""

    __slots__ = ("announcer", "committing", "covered", "left")

    def __init__(self) -> None:
        self.announcer: Callable[[], Commit | None] = _no_commit
        self.committing: set[ReferenceType[Commit]] = set()
        self.left = 0
        self.covered = 0


def _no_commit() -> None: ...


def _is_under_way(commit: Commit | None, now: float) -> bool:
    return commit is not None and commit.is_under_way(now)


_lock = threading.Lock()
_databases: WeakKeyDictionary[Any, dict[Any, _Queue]] = WeakKeyDictionary()
_early: WeakKeyDictionary[Any, WeakKeyDictionary[Transaction, set[Any]]] = WeakKeyDictionary()
"""What open transactions have announced that were not about to commit."""


def _queues_of(database: Any) -> dict[Any, _Queue]:
    if database is None:
        return {}
    if (found := _databases.get(database)) is None:
        found = _databases[database] = {}
    return found


def _forget() -> None:
    # In a child process, where the commits of the parent's other threads never end, and one may have held the lock.
    global _lock, _databases, _early
    _lock = threading.Lock()
    _databases = WeakKeyDictionary()
    _early = WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
