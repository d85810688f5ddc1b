"""Listeners that most jobs never reach: to what a mapper writes, and to jobs that lose their row or their session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.orm import InstanceState, Session, object_session
from sqlalchemy.orm.interfaces import EXT_CONTINUE

from oban_sa.models import Job
from oban_sa.outbox.admission import admit
from oban_sa.outbox.rows import seal, seal_again

if TYPE_CHECKING:
    from oban_sa.outbox.outbox import Outbox


def join(outboxes: type[Outbox]) -> None:
    """Listen from now on, and pass on to the outbox of the session."""

    # Raw, and with a value returned: SQLAlchemy then calls it without a function of its own in between, for each job.
    @event.listens_for(Job, "before_insert", propagate=True, raw=True, retval=True)
    def insert(mapper: Any, connection: Any, state: InstanceState[Job]) -> Any:
        job: Any = state.obj()
        if (session := state.session) is None:
            admit(job)
        else:
            outboxes.of(session, flushing=True).insert_by_mapper(session, connection, job)
        seal(job)
        return EXT_CONTINUE

    @event.listens_for(Job, "before_update", propagate=True)
    def update(mapper: Any, connection: Any, job: Job) -> None:
        seal_again(job)
        if (session := object_session(job)) is not None:
            outboxes.of(session, flushing=True).update(session, connection, job)

    # Raw, for the object itself may be gone by then.
    @event.listens_for(Session, "pending_to_transient", raw=True)
    def miss(session: Session, state: InstanceState[Any]) -> None:
        if issubclass(state.class_, Job) and (outbox := outboxes.found(session)) is not None:
            outbox.miss(session, state)

    @event.listens_for(Session, "persistent_to_transient", raw=True)
    def take_back(session: Session, state: InstanceState[Any]) -> None:
        if issubclass(state.class_, Job) and (outbox := outboxes.found(session)) is not None:
            outbox.take_back(state)
