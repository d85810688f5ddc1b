"""The rows of a workflow: its flows, its members, and what each of them waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast
from uuid import UUID

from oban_sa.errors import InvalidJob
from oban_sa.flows.parts import GraftPlace, Group, Member, Part, SubWorkflow
from oban_sa.jobs.flow import LANE, READS, forgives_before, lane_of
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job
from oban_sa.outbox.flow_rows import FlowRow, MemberRow, Tree

if TYPE_CHECKING:
    from oban_sa.flows.workflow import Workflow

LISTED: Final = 100
"""Names of dependencies in a member's meta at most; each fetch reads them, and the tables have all of them."""


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a part waits for: jobs and flows, with the bits of what is forgiven each."""

    jobs: dict[Job, int] = field(default_factory=dict[Job, int])
    flows: dict[UUID, int] = field(default_factory=dict[UUID, int])

    def add(self, part: Part, forgives: int) -> None:
        """Wait for a part too. What is waited for in several ways is forgiven what each of them forgives."""
        if isinstance(part, Member):
            self.jobs[part.job] = forgives & self.jobs.get(part.job, forgives)
            return
        flow = part.inner.id if isinstance(part, SubWorkflow) else cast("Group | GraftPlace", part).id
        known = self.flows.get(flow)
        if known is not None and known & forgives == known:
            return
        self.flows[flow] = forgives if known is None else known & forgives
        if isinstance(part, GraftPlace) or _is_empty(part):
            # It may be over at once, and so says nothing of what it waits for.
            for name, bits in part.waits.items():
                self.add(part.workflow.parts[name], forgives_before(forgives, bits))

    @classmethod
    def of(cls, part: Part) -> _Needs:
        """Return what a part waits for by itself."""
        needs = cls()
        for name, bits in part.waits.items():
            needs.add(part.workflow.parts[name], bits)
        return needs


def _is_empty(part: Part) -> bool:
    """Whether no member can be in a part, which then is over at once."""
    if isinstance(part, Group):
        return not part.jobs
    return isinstance(part, SubWorkflow) and all(map(_is_empty, part.inner.parts.values()))


def _holds(part: Part, known: dict[str, bool]) -> bool:
    """Whether a part ends well only after what stands before its workflow has, since a member in it waits for that."""
    if part.name not in known:
        known[part.name] = False
        if isinstance(part, GraftPlace) or _is_empty(part):
            waits = part.waits.items()
            known[part.name] = any(not bits and _holds(part.workflow.parts[name], known) for name, bits in waits)
        else:
            known[part.name] = True
    return known[part.name]


def tree(workflow: Workflow) -> Tree:
    """Return the rows of a workflow that was checked; raises `InvalidJob` where a job stands in it twice."""
    members = list(_members(workflow, workflow, _Needs()))
    if len({id(member.job) for member in members}) < len(members):
        raise InvalidJob(f"the same Job stands twice in {workflow!r}; make a new one for each member")
    return Tree(
        flows=tuple(_flows(workflow, ())),
        members=tuple(members),
        unique_name=workflow.name if workflow.unique else None,
        context=workflow.context,
    )


def _flows(workflow: Workflow, around: tuple[UUID, ...]) -> Iterator[FlowRow]:
    path = (*around, workflow.id)
    name = workflow.name if workflow.inside is None else workflow.inside.name
    inside: list[FlowRow] = []
    total = sum(isinstance(part, Member) for part in workflow.parts.values())
    for part in workflow.parts.values():
        if isinstance(part, Group):
            needs = _Needs() if part.jobs else _Needs.of(part)
            row = FlowRow((*path, part.id), "group", part.name, len(part.jobs), parents=needs.jobs, gates=needs.flows)
            inside.append(row)
            total += len(part.jobs)
        elif isinstance(part, GraftPlace):
            needs = _Needs.of(part)
            row = FlowRow((*path, part.id), "graft", part.name, 0, holders=1, parents=needs.jobs, gates=needs.flows)
            inside.append(row)
        elif isinstance(part, SubWorkflow):
            rows = list(_flows(part.inner, path))
            if _is_empty(part):
                needs = _Needs.of(part)
                rows[0] = replace(rows[0], parents=needs.jobs, gates=needs.flows)
            inside += rows
            total += rows[0].total
    yield FlowRow(path, "workflow", name, total)
    yield from inside


def _members(root: Workflow, workflow: Workflow, before: _Needs) -> Iterator[MemberRow]:
    """Yield the members of a workflow; what waits for nothing in it waits for what stands `before` the workflow."""
    common = _meta_of(root, workflow)
    places: dict[str, list[UUID]] = {}
    for each in workflow.parts.values():
        if isinstance(each, GraftPlace):
            places.setdefault(each.by, []).append(each.id)
    holding: dict[str, bool] = {}
    for part in workflow.parts.values():
        # One that forgives is not to begin, where what stands before the workflow has failed.
        inherits = not part.waits or any(
            bits or not _holds(workflow.parts[name], holding) for name, bits in part.waits.items()
        )
        needs = _Needs(dict(before.jobs), dict(before.flows)) if inherits else _Needs()
        for name, bits in part.waits.items():
            needs.add(workflow.parts[name], bits)
        meta = {**common, "deps": _listed(workflow, part.waits)}
        if isinstance(part, Member):
            yield _member(part.job, workflow.id, part.name, needs, meta, tuple(places.get(part.name, ())))
        elif isinstance(part, Group):
            for number, job in enumerate(part.jobs):
                yield _member(job, part.id, f"{part.name}/{number}", needs, meta)
        elif isinstance(part, SubWorkflow):
            yield from _members(root, part.inner, needs)


def _member(
    job: Job, flow_id: UUID, name: str, needs: _Needs, meta: JSONDict, holds: tuple[UUID, ...] = ()
) -> MemberRow:
    if needs.jobs or needs.flows or holds:
        meta = {**meta, READS: True}
    return MemberRow(job, flow_id, name, needs.jobs, needs.flows, {**meta, "name": name}, holds)


def _meta_of(root: Workflow, workflow: Workflow) -> JSONDict:
    """Return what the meta of all members has, by the keys of the family, and the lane."""
    meta: JSONDict = {"workflow": True, "workflow_id": str(workflow.id), LANE: lane_of(root.id)}
    if workflow.inside is not None:
        meta |= {"sup_workflow_id": str(workflow.inside.workflow.id), "sub_name": workflow.inside.name}
        meta["workflow_name"] = workflow.inside.name
    elif workflow.name is not None:
        meta["workflow_name"] = workflow.name
    if root.context is not None:
        meta[READS] = True
    return meta


def _listed(workflow: Workflow, waits: Mapping[str, int]) -> list[object]:
    """Return the dependencies as Oban Web reads them: names, and for a workflow inside its id and a star."""

    def listed(names: Iterable[str]) -> Iterator[object]:
        for name in names:
            part = workflow.parts[name]
            if isinstance(part, Member):
                yield name
            elif isinstance(part, SubWorkflow):
                yield [str(part.inner.id), "*"]
            elif isinstance(part, GraftPlace):
                yield from listed([part.by])

    return list(listed(waits))[:LISTED]
