"""Tell handlers of telemetry of the jobs that a commit has brought, where one listens.

What a flush or a statement writes is counted for its transaction or savepoint, and forgotten with what rolls back. A
session that was given a connection, whose transaction another ends, doesn't learn of the commit, and tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.orm import InstanceState, Session, SessionTransaction, UOWTransaction

from oban_sa.jobs.states import FINAL, JobState
from oban_sa.models import Job
from oban_sa.outbox.announcements import schema_of
from oban_sa.outbox.sessions import by_connection

Counts: TypeAlias = dict[tuple[str, str], int]
"""How many jobs, by queue and worker."""

_STARTED: Final = FINAL | {JobState.EXECUTING}


def add_jobs(counts: Counts, jobs: Iterable[Job]) -> None:
    """Count jobs that were written: not those in whose way another stood, nor those stored as started or finished."""
    for job in jobs:
        loaded = vars(job)
        if job.conflict is None and loaded.get("state") not in _STARTED:
            key = loaded.get("queue", "default"), job.worker
            counts[key] = counts.get(key, 0) + 1


def counted(jobs: Iterable[Job]) -> Counts:
    """Count jobs as `add_jobs` does."""
    counts: Counts = {}
    add_jobs(counts, jobs)
    return counts


def tell(schema: str, counts: Mapping[tuple[str, str], int]) -> None:
    """Tell of jobs that are committed, where there are some."""
    if not counts:
        return
    from oban_sa import telemetry
    from oban_sa.settings.options import default_node

    source = telemetry.Source(node=default_node(), schema=schema)
    for (queue, worker), count in counts.items():
        telemetry.emit(telemetry.JobsEnqueued(runner=source, queue=queue, worker=worker, count=count))


def merge(into: Counts, counts: Mapping[tuple[str, str], int]) -> None:
    """Add counts to others."""
    for key, count in counts.items():
        into[key] = into.get(key, 0) + count


class Enqueued:
    """Counts what a session writes, by its transactions and savepoints."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: WeakKeyDictionary[SessionTransaction, dict[Connection, Counts]] = WeakKeyDictionary()

    def flushed(self, session: Session, context: UOWTransaction) -> None:
        """Count the jobs that a flush has inserted, at its end."""
        saved: Any = context.states
        states: list[InstanceState[Job]] = [
            state
            for state, (is_deleted, is_only_listed) in saved.items()
            if state.key is None and not (is_deleted or is_only_listed) and issubclass(state.class_, Job)
        ]
        for connection, jobs in by_connection(session, states).items():
            add_jobs(self.here(session, connection), jobs)

    def here(self, session: Session, connection: Connection) -> Counts:
        """Return what is counted for the innermost transaction, to be added to."""
        transaction = session.get_nested_transaction() or session.get_transaction()
        if transaction is None:  # a listener ended it behind the session's back
            return {}
        return self._counts.setdefault(transaction, {}).setdefault(connection, {})

    def after_commit(self, session: Session) -> None:
        """Hand what a savepoint has to the transaction around it; after the last, tell."""
        ended = session.get_nested_transaction() or session.get_transaction()
        if ended is None or (found := self._counts.pop(ended, None)) is None:
            return
        if ended.parent is None:
            for connection, counts in found.items():
                if counts and not connection.in_transaction():  # else another ends it
                    tell(schema_of(connection), counts)
            return
        outer = self._counts.setdefault(ended.parent, {})
        for connection, counts in found.items():
            merge(outer.setdefault(connection, {}), counts)
