"""Add a job to a workflow or a batch that is stored already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from sqlalchemy import RowMapping

from oban_sa.client.transactions import Work
from oban_sa.errors import InvalidJob, WorkflowNotFound, articled, nearest, shown
from oban_sa.jobs.flow import ATTEMPT, LANE, READS, Forgiven, forgives_before, forgives_each, lane_of, listed_or_one
from oban_sa.jobs.values import JSONDict, from_json
from oban_sa.models import Job
from oban_sa.outbox.flow import stage
from oban_sa.outbox.flow_rows import MemberRow, Tree
from oban_sa.outbox.member import check_member, check_name
from oban_sa.outbox.staged import Joining
from oban_sa.sql.workflow import open_for, parts, some_names


def append(
    work: Work,
    flow: UUID,
    name: str,
    job: Job,
    *,
    deps: str | Iterable[str],
    forgive: Forgiven | Mapping[str, Forgiven],
) -> Job:
    """Write a job that joins a flow, in the session of `work`, and return it.

    Raises `InvalidJob` where the flow is over, and for names that are taken or unknown; `WorkflowNotFound`.
    """
    check_name(name, "a member")
    check_member(job, name)
    names = _names(name, deps)
    forgives = forgives_each(name, names, forgive)
    around = list(work.execute(open_for(work.schema), {"flow": flow}).mappings())
    if not around:
        raise WorkflowNotFound(f"no workflow in schema {work.schema!r} has the id {flow}; it was pruned, or never was")
    own = around[-1]
    if own["kind"] not in ("workflow", "batch"):
        raise InvalidJob(f"{flow} is a {own['kind']} in a workflow; append to that: {own['path'][-2]}")
    if own["completed_at"] is not None:
        raise InvalidJob(f"the {own['kind']} {flow} is over, and takes no more jobs; enqueue {name!r} by itself")
    given = {"flow": flow, "names": [name, *names]}
    found = {row["name"]: row for row in work.execute(parts(work.schema), given).mappings()}
    if name in found:
        raise InvalidJob(f"the {own['kind']} {flow} has a part {name!r} already; each name stands once")
    for each in names:
        if each not in found:
            known = work.execute(some_names(work.schema), {"flow": flow}).scalars().all()
            raise InvalidJob(
                f"{name!r} waits for {each!r}, which is no part of the {own['kind']} {flow}"
                + nearest(each, known, "what is inside a group or workflow of it is waited for as a whole, by its name")
            )
    parents: dict[int, int] = {}
    gates: dict[UUID, int] = {}
    for each in names:
        _wait(found[each], forgives[each], parents, gates)
    member = MemberRow(
        job=job,
        flow_id=flow,
        name=name,
        parents={},
        gates=gates,
        meta=_meta(around, name, names),
        stored=parents,
    )
    stage(work.session, Joining(), Tree(flows=(), members=(member,), joins=own["root_id"]))
    work.session.flush()
    if job not in work.session:  # another transaction has just written one of this name, which stays
        raise InvalidJob(f"the {own['kind']} {flow} has a part {name!r} already; each name stands once")
    return job


def _names(name: str, deps: object) -> list[str]:
    listed = listed_or_one(deps)
    for each in listed:
        if not isinstance(each, str):
            raise InvalidJob(
                f"deps of {name!r} are names of what is in the workflow, and this is {articled(type(each).__name__)}: "
                f"{shown(each)}"
            )
        check_name(each, f"what {name!r} waits for")
    return [str(each) for each in dict.fromkeys(listed)]


def _wait(found: RowMapping, forgives: int, parents: dict[int, int], gates: dict[UUID, int]) -> None:
    """Wait for what was found, and for what stands before it, where it may be over since it has no members."""
    if found["job_id"] is not None:
        parents[found["job_id"]] = forgives & parents.get(found["job_id"], forgives)
        return
    gates[found["flow_id"]] = forgives & gates.get(found["flow_id"], forgives)
    if found["before"] is not None:
        before = from_json(found["before"])
        for job, bits in before["parents"].items():
            each = forgives_before(forgives, bits)
            parents[int(job)] = each & parents.get(int(job), each)
        for flow, bits in before["gates"].items():
            each = forgives_before(forgives, bits)
            gates[UUID(flow)] = each & gates.get(UUID(flow), each)


def _meta(around: list[RowMapping], name: str, deps: list[str]) -> JSONDict:
    """Return what the meta of a member has, as of one that was written with its flow."""
    own = around[-1]
    meta: JSONDict = {LANE: lane_of(own["root_id"])}
    if own["kind"] == "batch":
        meta |= {"batch": True, "batch_id": str(own["id"])}
        if own["on_attempt"]:
            meta[ATTEMPT] = True
    else:
        meta |= {"workflow": True, "workflow_id": str(own["id"]), "name": name, "deps": deps}
        if own["name"] is not None:
            meta["workflow_name"] = own["name"]
        if len(around) > 1:
            meta |= {"sup_workflow_id": str(around[-2]["id"]), "sub_name": own["name"]}
    if deps or around[0]["has_context"]:
        meta[READS] = True
    return meta
