"""The claim of unique keys on a session's connection: what is sent, what comes back, and how long it waits."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError

from oban_sa.errors import UniqueBusy
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.models import Job
from oban_sa.models.later import Later
from oban_sa.sql import claim, insert
from oban_sa.sql.errors import sqlstate

_LOCK_TIMED_OUT: Final = "55P03"
_NOT_SERIALIZABLE: Final = "40001"
_claimed: Final[WeakKeyDictionary[Connection, int]] = WeakKeyDictionary()
"""In which transaction of a connection keys were claimed, by its `id()`: an old number that comes again costs no more
than a savepoint."""


def must_come_early(connection: Connection) -> bool:
    """Whether claims of this transaction may be part of a deadlock: it has made some already."""
    transaction = connection.get_transaction()
    if transaction is None or _claimed.get(connection) != id(transaction):
        return False
    return connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"


def note_claimed(connection: Connection) -> None:
    """Remember that the transaction of a connection holds keys, or locks on jobs."""
    if (transaction := connection.get_transaction()) is not None:
        _claimed[connection] = id(transaction)


def answer(connection: Connection, jobs: Sequence[Job]) -> dict[int, Any]:
    """Claim keys, and return the rows of the answer by the numbers of the jobs."""
    locks = frozenset(lock for job in jobs for lock in unique_of(job).locks)
    with explaining():
        if len(jobs) == 1:
            rows = connection.execute(claim.claiming(locks, single=True), claim.one(_row(jobs[0]))).all()
        else:
            rows = connection.execute(claim.claiming(locks), claim.many(map(_row, jobs))).all()
    return {row.number: row for row in rows}


@contextmanager
def explaining() -> Generator[None]:
    """Run a claim, and say what to do where PostgreSQL can't serialize it with that of another transaction."""
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) == _NOT_SERIALIZABLE:
            error.add_detail(
                "another transaction has committed a job with the same unique key; run this transaction again, or use "
                "READ COMMITTED, in which a claim waits and sees it"
            )
        raise


def _row(job: Job) -> dict[str, object]:
    loaded, wanted = vars(job), unique_of(job)
    given = loaded.get("scheduled_at")
    moment = span = None
    if isinstance(given, Later):
        span = given.span.total_seconds()
    elif isinstance(given, datetime):
        moment = (given.astimezone(UTC) if given.tzinfo is not None else given).replace(tzinfo=None).isoformat()
    named: dict[str, Any] = {
        "worker": loaded.get("worker"),
        "queue": loaded.get("queue", "default"),
        "args": loaded.get("args") or {},
        "meta": loaded.get("meta") or {},
    }
    row: dict[str, object] = {
        **wanted.terms,
        "subject": wanted.subject(**named),
        "id": loaded.get("id"),
        "scheduled_at": moment,
        "span": span,
    }
    if wanted.replaced:
        row |= {**named, "meta": wanted.marked(named["meta"])}
        row["state"] = state_of(loaded).value
        row["tags"] = insert.array_text(loaded.get("tags") or ())
        row["max_attempts"] = loaded.get("max_attempts", 20)
        row["priority"] = loaded.get("priority", 0)
    return row


def blockers(connection: Connection, ids: Sequence[int]) -> dict[int, Mapping[str, object]]:
    """Return the columns of rows, by the names of the attributes of a job."""
    if not ids:
        return {}
    table = Job.metadata.tables["public.oban_jobs"]
    named = {attribute.key: attribute.columns[0] for attribute in Job.__mapper__.column_attrs}
    named = {name: column for name, column in named.items() if getattr(column, "table", None) is table}
    rows = connection.execute(
        select(*named.values()).where(table.c.id == claim.IDS), {"ids": f"{{{','.join(map(str, ids))}}}"}
    )
    found = (dict(zip(named, row, strict=True)) for row in rows)
    return {columns["id"]: columns for columns in found}


def unique_of(job: Job) -> Unique:
    """Return what makes a job unique."""
    found: Unique = vars(job)["_unique"]
    return found


def state_of(loaded: Mapping[str, Any]) -> JobState:
    """Return the state of a job, whose attributes are `loaded`."""
    return JobState(loaded.get("state") or JobState.AVAILABLE)


@contextmanager
def hurrying(connection: Connection, *, needed: bool) -> Generator[None]:
    """Run a claim in a savepoint, in which it waits for no lock longer than a deadlock would take to be found."""
    if not needed:
        yield
        return
    try:
        with connection.begin_nested():
            before = connection.execute(claim.HURRY).one().before
            yield
            # What was set stays when a savepoint is released.
            connection.execute(claim.TAKE_TIME, {"before": before})
    except DBAPIError as error:
        if sqlstate(error) != _LOCK_TIMED_OUT:
            raise
        raise UniqueBusy(
            "another transaction holds the unique key of a job that this one enqueues, and this one has claimed others "
            "before, for which that one may be waiting; nothing of this flush was written, and the session can go on. "
            "Run the transaction again, or enqueue unique jobs by one flush, whose keys are claimed in one order"
        ) from error
