"""`Batch`: jobs without an order among them, and jobs that are made when something happens to them as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from oban_sa.errors import InvalidJob
from oban_sa.jobs.flow import ATTEMPT, LANE, lane_of, new_id
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox.callbacks import check_callback
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import FlowRow, MemberRow, Tree
from oban_sa.outbox.member import check_member, check_name, several
from oban_sa.outbox.staged import Flow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class Batch(Flow):
    """Jobs that run in any order, and callbacks: jobs that are made once each, when it happens.

        enqueue(session, Batch([send.new(user.id) for user in users], on_complete=report.new(run=7)))

    `on_success`: all were completed; also where that needed a retry by hand. `on_exhausted`: all have ended, and not
    all were completed. `on_complete`: all have ended, however. `on_attempt`: each ran at least once, or ended before.
    `on_cancel` and `on_discard`: the first was cancelled, or was discarded or deleted. A batch may be empty: it is
    complete, and successful, at once. A callback has `batch_id` and `batch_event` in its meta.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        *,
        name: str | None = None,
        on_success: Job | None = None,
        on_discard: Job | None = None,
        on_complete: Job | None = None,
        on_attempt: Job | None = None,
        on_cancel: Job | None = None,
        on_exhausted: Job | None = None,
    ) -> None:
        """Raises `InvalidJob` for a job that can't be a member, or a callback: one that is unique, stored or begun."""
        if name is not None:
            check_name(name, "a batch")
        self.id: UUID = new_id()
        self.name = name
        self.jobs = several(jobs, "Batch", one="Batch([job])")
        given = {
            "on_success": on_success,
            "on_discard": on_discard,
            "on_complete": on_complete,
            "on_attempt": on_attempt,
            "on_cancel": on_cancel,
            "on_exhausted": on_exhausted,
        }
        self.callbacks = {event: job for event, job in given.items() if job is not None}
        for number, job in enumerate(self.jobs):
            check_member(job, str(number))
        members = {id(job) for job in self.jobs}
        for event, job in self.callbacks.items():
            check_callback(job, event)
            if id(job) in members:
                raise InvalidJob(f"the job of {event} is also one of the batch; make a new Job for it")

    def stage(self, session: Session) -> None:
        """Do what `enqueue` does: stage it with its jobs; raises `InvalidJob` where a job stands in it twice."""
        stage(session, self, self.tree())

    def tree(self) -> Tree:
        """Return the rows that `enqueue` has the session write."""
        if len({id(job) for job in self.jobs}) < len(self.jobs):
            raise InvalidJob(f"the same Job stands twice in {self!r}; make a new one for each")
        meta: JSONDict = {"batch": True, "batch_id": str(self.id), LANE: lane_of(self.id)}
        if "on_attempt" in self.callbacks:
            meta[ATTEMPT] = True
        members = [MemberRow(job, self.id, str(number), {}, {}, meta) for number, job in enumerate(self.jobs)]
        return Tree(
            flows=(FlowRow((self.id,), "batch", self.name, len(self.jobs), self.callbacks),), members=tuple(members)
        )

    def __repr__(self) -> str:
        return "<Batch>" if self.name is None else f"<Batch {self.name!r}>"
