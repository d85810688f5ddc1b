"""What `enqueue` takes beside a job: it stages itself, and is written with its members."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import Session

from oban_sa.jobs.flow import new_id


class Flow:
    """What `enqueue` takes beside a job: many jobs as one."""

    id: UUID
    """Made by this program; the row has it once it is written."""
    conflict: bool = False
    """Whether nothing was written, since another flow of this name was under way; known after the flush."""

    trigger: object = None
    """The row that was staged for it, where it has no jobs."""

    def stage(self, session: Session) -> None:
        """Stage it in a session; raises `InvalidJob` where it can't be enqueued as it is."""
        raise NotImplementedError


class Joining(Flow):
    """Members that join a flow which is stored already, written as if they were one."""

    def __init__(self) -> None:
        self.id = new_id()
