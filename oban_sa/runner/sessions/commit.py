"""The end of an attempt that has a session: its writes, its outcome, and one commit for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import Connection, Executable, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from oban_sa.errors import AttemptError, JobElsewhere
from oban_sa.jobs.ascii import in_ascii
from oban_sa.jobs.verdicts import Verdict
from oban_sa.models import Job
from oban_sa.outbox.atomicity import ELSEWHERE, Homes
from oban_sa.runner.cluster.attempt_age import Written, naive
from oban_sa.sql.ack import as_arrays, said
from oban_sa.sql.attempt_age import revert
from oban_sa.sql.errors import sqlstate
from oban_sa.sql.fence import is_held
from oban_sa.sql.flow import note
from oban_sa.sql.plan import Plan
from oban_sa.sql.relay import tell


@cache
def ack_alone() -> Executable:
    """Return the fenced ack of one attempt; it also tells the number of the transaction that it's made in."""
    return Plan().ack_one()


@cache
def ack_member() -> Executable:
    """Return the same for a job that is a member of a flow; it notes how the job ended."""
    return Plan(followers=(note,)).ack_one()


@cache
def ack_waited_for() -> Executable:
    """Return the same for a job whose end a program waits for."""
    return Plan(followers=(note, tell)).ack_one()


class Others(NamedTuple):
    """The verdicts on the other jobs of a chunk."""

    verdicts: Sequence[Verdict]
    noting: bool
    """Whether one of them is a member of a flow."""
    telling: bool
    """Whether a program waits for the end of one of them."""


@cache
def ack_others(*, noting: bool, telling: bool) -> Executable:
    """Return the fenced ack of many attempts."""
    followers = (note, tell) if telling else (note,) if noting else ()
    return Plan(followers=followers).ack()


_is_held: Final = cache(is_held)

_reverting: Final = cache(revert)

_BIND: Final = {"mapper": inspect(Job)}


def write_and_commit(
    session: Session,
    verdict: Verdict,
    committing: Callable[[int], object],
    young: Written | None = None,
    ack_one: Executable | None = None,
    others: Others | None = None,
) -> bool | None:
    """Write the verdict in the session's transaction and commit it; or roll back, where the job was lost.

    Returns whether it was committed, and None where there is no transaction, so that nothing is written. `committing`
    is called just before the commit, with the number of the transaction, `young` knows which attempts were kept young,
    and `ack_one` replaces `ack_alone`; where one of the `others` was lost, all is rolled back, too. Raises
    `AttemptError` where the transaction had failed, or where it was the worker itself that took its job away, and
    `JobElsewhere` where the session has written in another database too.
    """
    if not session.is_active:
        raise AttemptError(FAILED)
    if not session.in_transaction():
        if not (session.new or session.dirty or session.deleted):
            return None
        session.begin()
    statement = ack_alone() if ack_one is None else ack_one
    try:
        session.flush()
        connection = session.connection(bind_arguments=_BIND)
        xid = _ack(connection, verdict, statement)
        if xid is None and _reverted(connection, verdict, young):
            xid = _ack(connection, verdict, statement)
    except DBAPIError as error:
        if sqlstate(error) == "25P02":
            raise AttemptError(FAILED) from error
        raise
    if xid is None:
        session.rollback()
        if _held(session, verdict, young):
            raise AttemptError(TAKEN)
        return False
    if others is not None and not _ack_others(connection, others, young):
        session.rollback()
        return False
    _refuse_elsewhere(session, connection)
    committing(xid)
    session.commit()
    return True


def _ack(connection: Connection, verdict: Verdict, ack_one: Executable) -> int | None:
    """Write the verdict and return the number of the transaction; None where the attempt has lost its job.

    Where the database's encoding can't hold its texts, they are written in ASCII.
    """
    if verdict.plain or (spelled := in_ascii(verdict)) == verdict:  # there is no text, or one that every encoding has
        return _acked(connection, verdict, ack_one)
    try:
        # A refusal would take the transaction along, and with it what the worker wrote.
        with connection.begin_nested():
            return _acked(connection, verdict, ack_one)
    except (DBAPIError, UnicodeError) as error:
        if isinstance(error, DBAPIError) and (sqlstate(error) or "")[:2] != "22":
            raise
        return _acked(connection, spelled, ack_one)


def _acked(connection: Connection, verdict: Verdict, ack_one: Executable) -> int | None:
    row = connection.execute(ack_one, said(verdict)).first()
    return None if row is None else row.xid


def _ack_others(connection: Connection, others: Others, young: Written | None) -> bool:
    """Write the verdicts on the other jobs of a chunk: whether none of these was lost."""
    statement = ack_others(noting=others.noting, telling=others.telling)
    left = list(others.verdicts)
    for _ in range(2):
        if not left:
            break
        acked = _acked_ids(connection, statement, left)
        left = [verdict for verdict in left if verdict.job_id not in acked]
        if not all(_reverted(connection, verdict, young) for verdict in left):
            break
    return not left


def _acked_ids(connection: Connection, statement: Executable, verdicts: Sequence[Verdict]) -> set[int]:
    def ack(said: Sequence[Verdict]) -> set[int]:
        given = {"holder": list(verdicts[0].holder), **as_arrays(said)}
        return {row.id for row in connection.execute(statement, given)}

    spelled = [verdict if verdict.plain else in_ascii(verdict) for verdict in verdicts]
    if spelled == list(verdicts):
        return ack(verdicts)
    try:
        with connection.begin_nested():  # as in `_ack`
            return ack(verdicts)
    except (DBAPIError, UnicodeError) as error:
        if isinstance(error, DBAPIError) and (sqlstate(error) or "")[:2] != "22":
            raise
        return ack(spelled)


def _reverted(connection: Connection, verdict: Verdict, young: Written | None) -> bool:
    """Write the true start of an attempt that was kept young, and lock its row; whether the job is still its own."""
    while young is not None and (moments := young.of(verdict)):
        if connection.execute(_reverting(), true_start(verdict, moments)).first() is not None:
            return True
        if young.of(verdict) == moments:  # else a beat has come between
            break
    return False


def true_start(verdict: Verdict, moments: Sequence[datetime]) -> dict[str, object]:
    """The parameters of `revert`; `moments` is what was written in place of the true start."""
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
    """Whether the job is the attempt's own, now that the worker's writes are rolled back: so it was not lost."""
    connection = session.connection(bind_arguments=_BIND)
    asked = {
        "job_id": verdict.job_id,
        "attempt": verdict.attempt,
        "attempted_at": verdict.attempted_at,
        "holder": list(verdict.holder),
    }
    held = bool(connection.execute(_is_held(), asked).scalar_one())
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
