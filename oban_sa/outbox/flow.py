"""Flows that a session was given: written with their jobs, by the flush that writes those, in its transaction.

A flow is staged as its jobs are, and its rows need their ids. So they are written at the end of the flush that wrote
the jobs, on the same connection. Only a flow of which no second may be under way has its own row written before the
flush, which says whether there is another one: then its jobs are taken out of the session, and nothing is written.

Programs that enqueue no workflow do not import this, and so have no listeners of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, cast
from uuid import UUID
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, UOWTransaction
from sqlalchemy.orm.attributes import instance_state

from oban_sa.errors import InvalidJob
from oban_sa.jobs.flow import LANE, lane_of
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict, dumps, has_references, replace_references
from oban_sa.models import Ending, Job
from oban_sa.outbox import references
from oban_sa.outbox.admission import plain
from oban_sa.outbox.announcements import schema_of
from oban_sa.outbox.callbacks import plain_callbacks, templates
from oban_sa.outbox.enqueue import enqueue_members
from oban_sa.outbox.flow_rows import FlowRow, MemberRow, Tree
from oban_sa.outbox.staged import Flow
from oban_sa.sql.flow import claim, stored, write

_MAPPER: Final = {"mapper": Job.__mapper__}

_OF: Final = ("workflow_id", "batch_id")
"""The keys in a member's meta that say which workflow or batch it is in."""

_MARKED: Final[tuple[str, ...]] = ("state", "meta")
"""What is changed of jobs that are staged as members."""


def stage(session: Session, flow: Flow, tree: Tree) -> None:
    """Stage a flow with its jobs.

    Raises `InvalidJob` and what `enqueue_many` raises; then nothing is staged, and the jobs are as they were.
    """
    for member in tree.members:
        meta: JSONDict = vars(member.job).get("meta") or {}
        if LANE in meta and any(key in meta and meta[key] != member.meta.get(key) for key in _OF):
            raise InvalidJob(
                f"the job of member {member.name!r} was enqueued in another workflow or batch; make a new Job for each"
            )
        clash = next((key for key, mine in member.meta.items() if meta.get(key, mine) != mine), None)
        if clash is not None:
            raise InvalidJob(
                f"the meta of member {member.name!r} has the key {clash!r}, which a workflow sets in that of its "
                "members; give yours another name"
            )
    flows = _FLOWS.setdefault(session, StagedFlows())
    was = flows.take(flow.id)
    kept = [{key: loaded[key] for key in _MARKED if key in loaded} for loaded in (vars(m.job) for m in tree.members)]
    try:
        trigger = flows.add(flow, tree, session)
        enqueue_members(session, [member.job for member in tree.members])
    except BaseException:
        flows.put_back(flow.id, was)
        for member, values in zip(tree.members, kept, strict=True):
            vars(member.job).update(values)
        raise
    if trigger is not None:
        session.add(trigger)


@dataclass(frozen=True, slots=True)
class _Staged:
    """A flow that waits for its flush; `context` is JSON, in which references are left."""

    flow: Flow
    tree: Tree
    context: JSONDict | None
    trigger: Ending | None
    """A row for the flush of a flow without jobs, which would have none: the note that the flow is to be looked at."""

    def parts(self) -> list[Job | Ending]:
        """What the session has of it: its jobs, or what stands for them where it has none."""
        return [member.job for member in self.tree.members] if self.trigger is None else [self.trigger]


class StagedFlows:
    """The flows that one session was given and has not written."""

    __slots__ = ("_claimed", "_staged")

    def __init__(self) -> None:
        self._staged: dict[UUID, _Staged] = {}
        self._claimed: set[UUID] = set()

    def add(self, flow: Flow, tree: Tree, session: Session) -> Ending | None:
        """Take in a flow whose jobs are about to be staged, and give these what members have.

        Returns what is to be staged as well, where it has no jobs.
        """
        context = None if tree.context is None else plain(tree.context, "context", session)
        if tree.unique_name is not None and has_references(context):
            raise InvalidJob(
                "the context of a unique workflow can't hold ref(...), as its row is written before the others; "
                "flush the session first, and write the value"
            )
        for member in tree.members:
            loaded = vars(member.job)
            loaded["meta"] = {**(loaded.get("meta") or {}), **member.meta}
            if member.waiting or tree.joins is not None:
                loaded["state"] = JobState.SUSPENDED
        for row in tree.flows:
            plain_callbacks(row.callbacks, session)
        if tree.joins is not None:
            self._forget_joining({id(member.job) for member in tree.members})
        trigger = None if tree.members else _trigger(flow, tree, session)
        self._staged[flow.id] = _Staged(flow, tree, context, trigger)
        return trigger

    def _forget_joining(self, jobs: set[int]) -> None:
        """Forget what was staged of jobs that joined before: it was rolled back before a flush, and they join anew."""
        for key, each in self._staged.items():
            if each.tree.joins is not None:
                rest = tuple(member for member in each.tree.members if id(member.job) not in jobs)
                self._staged[key] = replace(each, tree=replace(each.tree, members=rest))

    def take(self, flow: UUID) -> _Staged | None:
        """Return what is staged of a flow, for `put_back`."""
        return self._staged.get(flow)

    def put_back(self, flow: UUID, staged: _Staged | None) -> None:
        """Have staged of a flow what was staged before."""
        if staged is None:
            self._staged.pop(flow, None)
        else:
            self._staged[flow] = staged

    def begin_flush(self, session: Session) -> None:
        """Claim the names of unique flows, and take the jobs of those out of the session whose name is taken."""
        self._claimed = set()
        joining: dict[tuple[UUID, str], Job] = {}
        for each in list(self._staged.values()):
            tree = each.tree
            if tree.joins is not None:
                self._leave_out_stored(each, session, joining)
                continue
            if tree.unique_name is None or not any(part in session for part in each.parts()):
                continue
            connection = session.connection(bind_arguments=_MAPPER)
            row = {**_row(tree.flows[0], each), "unique_name": tree.unique_name}
            made = connection.execute(claim(schema_of(connection)), {"flows": dumps([row])}).first()
            each.flow.conflict = made is None
            if made is not None:
                self._claimed.add(tree.id)
                continue
            del self._staged[each.flow.id]
            for part in each.parts():
                if part in session:
                    session.expunge(part)

    def _leave_out_stored(self, staged: _Staged, session: Session, joining: dict[tuple[UUID, str], Job]) -> None:
        """Take those that join out of the session whose names are stored, or are `joining` already in this flush.

        So a graft may be repeated.
        """
        # By their states, for one whose savepoint was rolled back has its old id still.
        members = [each for each in staged.tree.members if each.job in session and instance_state(each.job).key is None]
        if not members:
            return
        connection = session.connection(bind_arguments=_MAPPER)
        given = {"flow": members[0].flow_id, "names": [each.name for each in members]}
        found = {row.name: row.job_id for row in connection.execute(stored(schema_of(connection)), given)}
        rest: list[MemberRow] = []
        same: dict[Job, Job] = {}
        for each in members:
            if each.name in found:
                session.expunge(each.job)
                vars(each.job)["id"] = found[each.name]  # the one that has the name, for those that wait for it
            elif (first := joining.setdefault((each.flow_id, each.name), each.job)) is not each.job:
                session.expunge(each.job)
                same[each.job] = first
            else:
                rest.append(each)
        if same:
            rest = [
                replace(each, parents={same.get(parent, parent): bits for parent, bits in each.parents.items()})
                for each in rest
            ]
        if len(rest) < len(members):
            self._staged[staged.flow.id] = replace(staged, tree=replace(staged.tree, members=tuple(rest)))

    def finish_flush(self, session: Session) -> None:
        """Write the flows whose jobs have been written; raises `InvalidJob` where some of a flow's jobs have not."""
        ready: list[_Staged] = []
        for each in list(self._staged.values()):
            parts, members = each.parts(), each.tree.members
            here = sum(part in session for part in parts)
            missing = [part for part in parts if part not in session or "id" not in vars(part)]
            if not missing:
                ready.append(each)
            elif len(missing) < len(members):
                first = next(member.name for member in members if member.job is missing[0])
                raise InvalidJob(
                    f"the member {first!r} of a workflow was not written with the others, since it was taken "
                    "out of the session; a workflow is written as a whole, so leave all its jobs in the session"
                )
            if not missing or not here:  # what staged it was rolled back
                del self._staged[each.flow.id]
        if ready:
            connection = session.connection(bind_arguments=_MAPPER)
            connection.execute(write(schema_of(connection)), _rows(ready, self._claimed))


def _trigger(flow: Flow, tree: Tree, session: Session) -> Ending:
    """Return what is staged for a flow without jobs; raises `InvalidJob` where it is stored already."""
    trigger = flow.trigger
    if isinstance(trigger, Ending):
        if instance_state(trigger).key is not None:
            raise InvalidJob(f"{flow!r} is stored already; make a new one")
        if trigger in session:
            return trigger
    flow.trigger = made = Ending(lane=lane_of(tree.id), flow_id=tree.id)
    return made


def _rows(staged: Iterable[_Staged], claimed: set[UUID]) -> dict[str, str]:
    """Return the parameters of `write`; flows that are `claimed` have their rows already."""
    rows: dict[str, list[JSONDict]] = {name: [] for name in ("flows", "members", "edges", "gates", "endings")}
    for each in staged:
        for flow in each.tree.flows:
            if flow.id not in claimed:
                rows["flows"].append(_row(flow, each))
            if not (flow.total or flow.holders) and (each.trigger is None or flow.id != each.tree.id):
                rows["endings"].append({"lane": lane_of(each.tree.id), "flow_id": str(flow.id)})
        for member in each.tree.members:
            child, joins = member.job.id, each.tree.joins is not None
            rows["members"].append(
                {
                    "job_id": child,
                    "flow_id": str(member.flow_id),
                    "name": member.name,
                    "waiting": None if joins else member.waiting,
                    "holds": [str(held) for held in member.holds] or None,
                }
            )
            if joins:
                rows["endings"].append({"lane": lane_of(each.tree.id), "job_id": child})
            parents = {parent.id: forgives for parent, forgives in member.parents.items()}
            for parent_id, forgives in {**parents, **member.stored}.items():
                rows["edges"].append({"parent_id": parent_id, "child_id": child, "forgives": forgives})
            for gate, forgives in member.gates.items():
                rows["gates"].append({"flow_id": str(gate), "child_id": child, "forgives": forgives})
    return {name: dumps(each) for name, each in rows.items()}


def _row(flow: FlowRow, staged: _Staged) -> JSONDict:
    root = staged.tree.id
    context = staged.context if flow.id == root else None
    if context is not None:
        context = cast("JSONDict", replace_references(context, references.final, where="context"))
    return {
        "id": str(flow.id),
        "root_id": str(root),
        "path": [str(each) for each in flow.path],
        "kind": flow.kind,
        "lane": lane_of(root),
        "name": flow.name,
        "total": flow.total,
        "unfinished": flow.total + flow.holders,
        "context": context,
        "callbacks": templates(flow.callbacks),
        "meta": _waits(flow),
    }


def _waits(flow: FlowRow) -> JSONDict:
    """What those wait for that a graft is filled with, as its meta has it."""
    if not (flow.parents or flow.gates):
        return {}
    return {
        "parents": {str(parent.id): forgives for parent, forgives in flow.parents.items()},
        "gates": {str(gate): forgives for gate, forgives in flow.gates.items()},
    }


_FLOWS: Final[WeakKeyDictionary[Session, StagedFlows]] = WeakKeyDictionary()
"""The flows of each session that was given one."""


@event.listens_for(Session, "before_flush")
def _begin_flush(session: Session, context: UOWTransaction, objects: object) -> None:
    if (flows := _FLOWS.get(session)) is not None:
        flows.begin_flush(session)


@event.listens_for(Session, "after_flush")
def _finish_flush(session: Session, context: UOWTransaction) -> None:
    if (flows := _FLOWS.get(session)) is not None:
        flows.finish_flush(session)
