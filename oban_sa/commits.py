"""Which transactions of this process are just committing, so that not each of them has to announce its jobs.

A transaction that notifies holds a lock of the whole database's while its commit waits for the disk, and commits that
could have shared one wait follow one by one. So a queue is announced by one commit at a time; those that come to it
meanwhile leave their share *owed*. It is paid by the next that announces, or by the last one out: whoever has committed
and sees nobody left to do it does it after the commit. So every job is announced after it was committed, at most a
commit later than it would have been, and a transaction that meets no other announces for itself.

Only this process is seen. Others announce as if they were alone, each with one such commit at a time for each queue.
Where an announcement is lost after all, with the process or its connection, runners find the job by polling.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet, ref

from oban_sa import clock

Key = TypeVar("Key", bound=Hashable)


class Ending(Protocol):
    """A transaction of the driver's."""

    @property
    def is_active(self) -> bool:
        """Whether it has neither committed nor rolled back."""
        ...


PATIENCE: Final = 0.25
"""Seconds after which a commit counts no more as one that is about to announce; it may hang, or never end."""


class Commit:
    """A transaction on its way from the decision to commit to its end; whoever owns it keeps it until then.

    `database` is whatever stands for the database, and `transaction` says by `is_active` that it hasn't ended; neither
    is kept alive. Safe to be used from any thread.
    """

    __slots__ = ("__weakref__", "_announced", "_began_at", "_database", "_joined", "_left", "_sent", "_transaction")

    def __init__(self, database: Any, transaction: Ending) -> None:
        self._database = ref(database)
        self._transaction = ref(transaction)
        self._began_at = clock.monotonic()
        self._joined: dict[Any, _Line] = {}
        self._announced: dict[Any, int] = {}
        self._left: set[Any] = set()
        self._sent = False

    def join(self, keys: Iterable[Hashable]) -> None:
        """Say that this transaction is about to commit, and sees on its way out whether any of `keys` is owed.

        The sooner it joins, the more others can rely on it.
        """
        with _lock:
            self._join(keys)

    def announces(self, keys: Iterable[Key], transaction: Ending) -> list[Key]:
        """Return those of `keys` that this transaction announces before it commits; others announce the rest.

        `transaction` is from now on what says by `is_active` that it hasn't ended.
        """
        mine: list[Key] = []
        now = clock.monotonic()
        with _lock:
            self._transaction = ref(transaction)
            for key, line in self._join(keys):
                if _is_hopeful(line.announcer(), now):
                    self._left.add(key)
                else:
                    line.announcer = ref(self)
                    self._announced[key] = line.owed  # what is owed by now
                    mine.append(key)
        return mine

    def _join(self, keys: Iterable[Key]) -> list[tuple[Key, _Line]]:
        lines = _lines_of(self._database())
        found: list[tuple[Key, _Line]] = []
        for key in keys:
            line = self._joined.get(key)
            if line is None:
                line = self._joined[key] = lines.setdefault(key, _Line())
                line.committing.add(self)
            found.append((key, line))
        return found

    def sent(self) -> None:
        """Say that what this transaction announces was sent: from now on its commit may be under way."""
        self._sent = True

    def passed(self) -> None:
        """Say that it is over, and that it can't announce what is owed."""
        with _lock:
            for line in self._joined.values():
                line.committing.discard(self)
            self._joined = {}

    def committed(self) -> list[Any]:
        """Return the keys that are to be announced now, after the commit, because nobody else is left to do it."""
        owed: list[Any] = []
        now = clock.monotonic()
        with _lock:
            lines = _lines_of(self._database())
            for key, line in self._joined.items():
                line.committing.discard(self)
                announcer = line.announcer()
                if announcer is self:
                    line.announcer = _nobody
                if key in self._announced:
                    line.paid = max(line.paid, self._announced[key])
                if key in self._left:
                    line.owed += 1
                    if announcer is not None and not announcer._sent:
                        announcer._announced[key] = line.owed  # it can't have committed before this one
                if line.owed > line.paid and not any(_is_hopeful(other, now) for other in line.committing):
                    line.paid = line.owed
                    owed.append(key)
                if not line.committing and line.owed == line.paid and lines.get(key) is line:
                    del lines[key]
            self._joined = {}
        return owed


def announces_early(database: Any, keys: Iterable[Hashable], transaction: Ending) -> bool:
    """Whether `transaction`, which is not about to commit yet, announces `keys` all the same.

    It does where nobody is just committing with one of them, and no other open transaction has announced one early.
    Nobody relies on it, for nobody knows when it commits.
    """
    wanted = set(keys)
    with _lock:
        early = _early.setdefault(database, WeakKeyDictionary())
        others = [taken for other, taken in early.items() if other is not transaction and other.is_active]
        if not wanted.isdisjoint(_databases.get(database, ())) or not all(map(wanted.isdisjoint, others)):
            return False
        early.setdefault(transaction, set()).update(wanted)
        return True


class _Line:
    """What happens to one queue; counts commits whose announcement was left to others, and up to which it was made."""

    __slots__ = ("announcer", "committing", "owed", "paid")

    def __init__(self) -> None:
        self.announcer: Callable[[], Commit | None] = _nobody
        self.committing: WeakSet[Commit] = WeakSet()
        self.owed = 0
        self.paid = 0


def _nobody() -> None: ...


def _is_hopeful(commit: Commit | None, now: float) -> bool:
    """Whether a commit is under way which comes to an end soon, as far as one can tell."""
    if commit is None or now - commit._began_at > PATIENCE:
        return False
    transaction = commit._transaction()
    return transaction is not None and transaction.is_active


_lock = threading.Lock()
_databases: WeakKeyDictionary[Any, dict[Any, _Line]] = WeakKeyDictionary()
_early: WeakKeyDictionary[Any, WeakKeyDictionary[Ending, set[Any]]] = WeakKeyDictionary()
"""What open transactions have announced that were not about to commit."""


def _lines_of(database: Any) -> dict[Any, _Line]:
    return {} if database is None else _databases.setdefault(database, {})


def _forget() -> None:
    # In a child process, where the commits of the parent's other threads never end, and one may have held the lock.
    global _lock, _databases, _early
    _lock = threading.Lock()
    _databases = WeakKeyDictionary()
    _early = WeakKeyDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
