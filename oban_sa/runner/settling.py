"""The end of an attempt that has a session: its writes, its outcome, and one commit for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, func, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from oban_sa import values
from oban_sa.binds import ELSEWHERE, Homes
from oban_sa.errors import AttemptError, JobElsewhere
from oban_sa.models import Job
from oban_sa.runner.refused import in_ascii
from oban_sa.runner.young import Written, naive
from oban_sa.sql.acking import acking_one
from oban_sa.sql.inquiring import inquiring_held
from oban_sa.sql.keeping import reverting
from oban_sa.sql.sqlstates import sqlstate
from oban_sa.verdicts import Verdict

ACKING_ONE: Final = acking_one().returning(func.txid_current().label("xid"))
"""The fenced ack of one attempt; it also tells the number of the transaction that it's made in."""

INQUIRING_HELD: Final = inquiring_held()

REVERTING: Final = reverting()

_BIND: Final = {"mapper": inspect(Job)}


@dataclass(slots=True)
class Settled:
    """A verdict, and whether it was `written`; None where there was nothing to commit it with.

    While `xid` is set and nothing is written, the transaction of that number may have been committed, or may not.
    """

    verdict: Verdict
    written: bool | None = None
    xid: int | None = None


def conclude(
    session: Session,
    settled: Settled,
    committing: Callable[[], object] | None = None,
    *,
    young: Written | None = None,
) -> None:
    """Write the verdict in the session's transaction and commit it; or roll back, where the job was lost.

    `committing` is called just before the commit, and `young` knows which attempts were kept young. Where there is no
    transaction, nothing is written. Raises `AttemptError` where the transaction had failed, or where it was the worker
    itself that took its job away, and `JobElsewhere` where the session has written in another database too.
    """
    if not session.is_active:
        raise AttemptError(FAILED)
    if not session.in_transaction():
        if not (session.new or session.dirty or session.deleted):
            return
        session.begin()
    try:
        session.flush()
        connection = session.connection(bind_arguments=_BIND)
        acked = _acked(connection, settled)
        if acked is None and _reverted(connection, settled.verdict, young):
            acked = _acked(connection, settled)
    except DBAPIError as error:
        if sqlstate(error) == "25P02":
            raise AttemptError(FAILED) from error
        raise
    if acked is None:
        session.rollback()
        if _held(session, settled.verdict, young):
            raise AttemptError(TAKEN)
        settled.written = False
        return
    _refuse_elsewhere(session, connection)
    settled.xid = acked.xid
    if committing is not None:
        committing()
    session.commit()
    settled.written = True


def _acked(connection: Connection, settled: Settled) -> Row[Any] | None:
    """Write the verdict; where the database's encoding can't hold its texts, they are written in ASCII."""
    spelled = in_ascii(settled.verdict)
    if spelled == settled.verdict:  # as of nearly all: there is no text, or one that every encoding has
        return connection.execute(ACKING_ONE, said(settled.verdict)).first()
    try:
        # A refusal would take the transaction along, and with it what the worker wrote.
        with connection.begin_nested():
            return connection.execute(ACKING_ONE, said(settled.verdict)).first()
    except (DBAPIError, UnicodeError) as error:
        if isinstance(error, DBAPIError) and (sqlstate(error) or "")[:2] != "22":
            raise
        settled.verdict = spelled
        return connection.execute(ACKING_ONE, said(spelled)).first()


def _reverted(connection: Connection, verdict: Verdict, young: Written | None) -> bool:
    """Write the true start of an attempt that was kept young, and hold its row; whether it still holds its job."""
    while young is not None and (moments := young.of(verdict)):
        if connection.execute(REVERTING, true_start(verdict, moments)).first() is not None:
            return True
        if young.of(verdict) == moments:  # else a beat has come between
            break
    return False


def true_start(verdict: Verdict, moments: Sequence[datetime]) -> dict[str, Any]:
    """The parameters of `REVERTING`; `moments` is what was written in place of the true start."""
    begun = [] if verdict.attempted_at is None else [verdict.attempted_at]
    return {
        "job_id": verdict.job_id,
        "of_attempt": verdict.attempt,
        "holder": list(verdict.holder),
        "true_start": verdict.attempted_at,
        "moments": naive([*moments, *begun]),
    }


def _refuse_elsewhere(session: Session, connection: Connection) -> None:
    homes = Homes()
    homes.add(connection)
    try:
        homes.check(session)
    except JobElsewhere:
        raise JobElsewhere(ELSEWHERE_TOO) from None


ELSEWHERE_TOO: Final = (
    "the worker has written with its session in another database than the one that has the jobs, or on a connection of "
    "another engine, and each commits by itself: what it wrote could be kept without the job's completion, and be "
    "written again. Write that in a session of the worker's own, which says that it's apart; or let the attempts' "
    f'sessions do so by name: sessionmaker(..., info={{"{ELSEWHERE}": True}})'
)


def _held(session: Session, verdict: Verdict, young: Written | None = None) -> bool:
    """Whether the job is the attempt's again, once what the worker wrote is rolled back: it can't have been lost."""
    connection = session.connection(bind_arguments=_BIND)
    asked = {
        "job_id": verdict.job_id,
        "attempt": verdict.attempt,
        "attempted_at": verdict.attempted_at,
        "holder": list(verdict.holder),
    }
    held = bool(connection.execute(INQUIRING_HELD, asked).scalar_one())
    held = held or _reverted(connection, verdict, young)
    session.rollback()
    return held


TAKEN: Final = (
    "the worker changed the state of its own job in its session, or deleted the job, so that what came of the attempt "
    "had no place to be written, and nothing that it wrote could be kept; return Cancel, Snooze or Record instead, or "
    "do it in another session"
)

FAILED: Final = (
    "the worker returned with a session whose transaction had failed, so nothing that it wrote could be kept; "
    "let the error pass, or put what may fail into `session.begin_nested()`"
)


def said(verdict: Verdict) -> dict[str, Any]:
    """The parameters of `ACKING_ONE`."""
    return {
        "job_id": verdict.job_id,
        "holder": list(verdict.holder),
        "said_attempt": verdict.attempt,
        "said_state": verdict.state.value,
        "said_delay": verdict.delay,
        "said_error": verdict.error,
        "said_meta": None if verdict.meta is None else values.dumps(verdict.meta),
        "said_refund": verdict.refund,
        "said_attempted_at": verdict.attempted_at,
    }
