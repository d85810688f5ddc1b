"""Flows as values: the rows that are to be written of what `enqueue` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job


@dataclass(frozen=True, slots=True)
class FlowRow:
    """A flow that is to be written; `path` are the ids of the flows around it, the root first, and its own last."""

    path: tuple[UUID, ...]
    kind: str
    name: str | None
    total: int
    callbacks: Mapping[str, Job] = field(default_factory=dict[str, Job])
    """The jobs that are to be made, by event."""
    holders: int = 0
    """Members that may fill it; while one of them has not ended, it is not over."""
    parents: Mapping[Job, int] = field(default_factory=dict[Job, int])
    gates: Mapping[UUID, int] = field(default_factory=dict[UUID, int])
    """What those wait for that a graft is filled with, or what a flow without members was to wait for, and the bits of
    what is forgiven each."""

    @property
    def id(self) -> UUID:
        """Its id."""
        return self.path[-1]


@dataclass(frozen=True, slots=True)
class MemberRow:
    """A member that is to be written: its job, the bits that each of its parents and gates forgives, and its meta."""

    job: Job
    flow_id: UUID
    name: str
    parents: Mapping[Job, int]
    gates: Mapping[UUID, int]
    meta: JSONDict
    holds: tuple[UUID, ...] = ()
    """The grafts that it may fill."""
    stored: Mapping[int, int] = field(default_factory=dict[int, int])
    """As `parents`, those that were stored before, by the ids of their jobs."""

    @property
    def waiting(self) -> int:
        """How many dependencies it waits for."""
        return len(self.parents) + len(self.gates)


@dataclass(frozen=True, slots=True)
class Tree:
    """A flow with all the flows inside, the root first, and their members, in the order in which they were added.

    With `joins`, the id of a root, there are no flows: the members join what is stored already.
    """

    flows: tuple[FlowRow, ...]
    members: tuple[MemberRow, ...]
    unique_name: str | None = None
    context: object = None
    """What all members can read, to be made JSON of."""
    joins: UUID | None = None

    @property
    def id(self) -> UUID:
        """The id of the root."""
        return self.flows[0].id if self.joins is None else self.joins
