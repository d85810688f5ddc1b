"""`signal`: a word to a job, in a session's own transaction."""

from __future__ import annotations

from typing import Final, cast

from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction

from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, JobNotFound, JobOver, articled
from oban_sa.jobs import values
from oban_sa.jobs.durable import checked_name
from oban_sa.models import Job, SentSignal
from oban_sa.outbox.announcements import is_announced, schema_of
from oban_sa.outbox.sessions import AnySession, session_behind
from oban_sa.sql.signals import sent
from oban_sa.wire import messages

_KEY: Final = "oban_signals"
"""Where a session's `info` has the signals to jobs that have no id yet; and that the session is listened to."""

NAMED: Final = ("a signal", "approval")
"""What messages call a name, and an example of one."""

OVER: Final = frozenset({"completed", "cancelled", "discarded"})


def signal(session: AnySession, job: Job | int, name: str, payload: object = None) -> None:
    """Send a signal to a job: the session's next flush writes it, and it counts once the transaction is committed.

    A `wait_for` of the same name returns it, whether the job waits already or comes to that line later. `payload` is
    any JSON. Raises `InvalidArguments` for one that is none, `InvalidJob` for a job that is neither stored nor in this
    session, `TypeError` for what is no session. Where the job is over, or there is none of that id, the flush raises
    `JobOver` or `JobNotFound`.
    """
    target = session_behind(session)
    row = SentSignal(name=checked_name(name, *NAMED), payload=checked_payload(payload))
    pending = _listened(target)
    if isinstance(job, Job) and vars(job).get("id") is None:
        if job not in target:
            raise InvalidJob(f"{job} is neither stored nor in this session; enqueue it first: enqueue(session, job)")
        pending.append((job, row))
        return
    row.job_id = job_id(job)
    target.add(row)


def checked_payload(payload: object) -> object:
    """Return a payload as plain JSON; raises InvalidArguments."""
    plain: object = values.to_json(payload, where="payload")
    if values.has_references(plain):
        raise InvalidArguments("the payload of a signal can't hold ref(...); write the value", path="payload")
    return plain


def job_id(job: object) -> int:
    """Return the id of a job that is given by it, or as a stored `Job`."""
    found: object = vars(job).get("id") if isinstance(job, Job) else job
    if isinstance(job, Job) and found is None:
        raise InvalidJob(
            f"{job} is not stored yet; store it first, or send the signal in the session that enqueues it: "
            "signal(session, job, ...)"
        )
    if type(found) is not int:
        raise InvalidOption(f"a signal goes to a job or its id, not to {articled(type(job).__name__)}")
    if not -(2**63) <= found < 2**63:
        refuse(found, None)
    return found


def refuse(identity: int, state: str | None) -> None:
    """Raise where no code of a job will take a signal."""
    if state is None:
        raise JobNotFound(f"no job has the id {identity}, so that nothing takes the signal")
    if state in OVER:
        raise JobOver(f"job {identity} is {state}, so that no code of it takes the signal")


def _listened(session: Session) -> list[tuple[Job, SentSignal]]:
    pending = cast("list[tuple[Job, SentSignal]] | None", session.info.get(_KEY))
    if pending is None:
        pending = session.info[_KEY] = []
        event.listen(session, "after_flush", _after_flush)
        event.listen(session, "after_flush_postexec", _after_flush_postexec)
    return pending


def _after_flush(session: Session, _: UOWTransaction) -> None:
    written = [each.job_id for each in session.new if isinstance(each, SentSignal)]
    if not written:
        return
    connection = session.connection(bind_arguments={"mapper": SentSignal.__mapper__})
    schema = schema_of(connection)
    try:
        channel = messages.channel(schema, messages.NODES)
    except InvalidOption:  # the schema's name is too long for a channel; its runners look each second
        channel = ""
    given = {
        "ids": values.dumps(written),
        "channel": channel,
        "announcing": bool(channel) and is_announced(connection, session),
    }
    for row in connection.execute(sent(schema), given).mappings():
        refuse(row["id"], row["state"])


def _after_flush_postexec(session: Session, _: UOWTransaction) -> None:
    pending = _listened(session)
    left = [(job, row) for job, row in pending if vars(job).get("id") is None and job in session]
    ready = [(job, row) for job, row in pending if vars(job).get("id") is not None]
    pending[:] = left
    for job, row in ready:
        if job in session:
            row.job_id = job.id
            session.add(row)
