"""`deps().graft("pages")`: members that a running member adds to its own workflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from sqlalchemy.orm.attributes import instance_state

from oban_sa.flows.parts import Dependencies, Forgive, Member
from oban_sa.flows.workflow import Workflow
from oban_sa.jobs.flow import LANE, READS
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue_many
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import MemberRow, Tree
from oban_sa.outbox.staged import Flow, Joining

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_KEPT: Final = ("workflow", "workflow_id", "workflow_name", "sup_workflow_id", "sub_name", LANE)
"""What the meta of those that are grafted has as the one that grafts them."""


@dataclass(frozen=True, slots=True)
class Place:
    """The graft as it is stored, and what those that are grafted wait for."""

    id: UUID
    root: UUID
    parents: Mapping[int, int]
    gates: Mapping[UUID, int]


class _Members(Workflow):
    """The members of a graft, as a workflow of their own, to which more may be added once some are stored."""

    def _is_enqueued(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<Graft {self.name!r}>"


class Graft(Flow):
    """Members that are added where `Workflow.graft` has left a place for them: `enqueue(session, graft)`.

    In the attempt's own session they are committed with its completion, or not at all. Names that are stored already
    are left as they are, so a member that runs again does no harm. A graft that is enqueued with nothing in it, or not
    at all, is empty.
    """

    def __init__(self, name: str, job: Job, place: Place | None) -> None:
        self.name = name
        self._job = job
        self._place = place
        self._members = _Members(name)
        self._jobs: dict[str, Job] = {}
        if place is not None:
            self.id = place.id

    def add(self, name: str, job: Job, *, deps: Dependencies = (), forgive: Forgive = ()) -> Member:
        """Add a job under a name, which may wait for others of this graft; raises `InvalidJob` as in a workflow."""
        member = self._members.add(name, job, deps=deps, forgive=forgive)
        self._jobs[name] = job
        return member

    def stage(self, session: Session) -> None:
        """Do what `enqueue` does: stage those that are not staged yet; raises `InvalidJob` for a cycle."""
        # By their states: one that a savepoint has rolled back has its id still, and is to be staged again.
        fresh = {
            name: job for name, job in self._jobs.items() if job not in session and instance_state(job).key is None
        }
        if not fresh:
            return
        self._members.check()
        place = self._place
        if place is None:  # in a test, where there is no workflow
            enqueue_many(session, fresh.values())
            return
        meta = {key: value for key, value in self._job.meta.items() if key in _KEPT}
        members = [
            MemberRow(
                job=job,
                flow_id=place.id,
                name=name,
                parents={self._jobs[each]: bits for each, bits in self._members.parts[name].waits.items()},
                gates=place.gates,
                meta={**meta, READS: True, "name": name, "deps": [*self._members.parts[name].waits]},
                stored=place.parents,
            )
            for name, job in fresh.items()
        ]
        stage(session, Joining(), Tree(flows=(), members=tuple(members), joins=place.root))

    def __repr__(self) -> str:
        return f"<Graft {self.name!r}>"
