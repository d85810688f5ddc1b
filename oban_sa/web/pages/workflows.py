"""Workflows and batches: a list with their progress, and each as a drawing of what waits for what."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client.read import database_now, read_session
from oban_sa.client.workflows import WorkflowStatus
from oban_sa.sql import neighbours
from oban_sa.web.audit import refuse, tell
from oban_sa.web.form import read_form
from oban_sa.web.graph import Drawing, Node, draw
from oban_sa.web.page import Page
from oban_sa.web.pages.jobs import flash

PAGE: Final = 30
DRAWN: Final = 300
"""Members that are drawn; where there are more, the first of them."""

_LAST: Final = UUID(int=2**128 - 1)
_SETTLED: Final = {"c": "completed", "x": "cancelled", "d": "discarded", "g": "gone"}


@dataclass(frozen=True, slots=True)
class _Member:
    """A member as the tables have it; what a pruned job was is gone."""

    job_id: int
    flow_id: UUID
    name: str
    state: str
    worker: str
    waiting: int | None
    doomed: str | None


async def workflows(page: Page) -> Response:
    """Show the outermost workflows and batches, the last made first."""
    _require_all_queues(page)
    before = _uuid(page.request.query_params.get("before", "")) or _LAST
    async with read_session(page.instance.reader) as session:
        now = await database_now(session)
        given = {"before": before, "limit": PAGE + 1}
        rows = (await session.execute(neighbours.flows(page.instance.oban.schema), given)).mappings().all()
    return page.render(
        "workflows.html",
        title="Workflows",
        now=now,
        rows=[{**row, "state": _state(row["completed_at"], row["discarded"], row["cancelled"])} for row in rows[:PAGE]],
        older=str(rows[PAGE - 1]["id"]) if len(rows) > PAGE else "",
        first=before == _LAST,
    )


async def workflow(page: Page) -> Response:
    """Show one workflow, or a group or workflow inside of one."""
    _require_all_queues(page)
    identity = _identity(page)
    status = await page.instance.reader.workflow(identity)
    async with read_session(page.instance.reader) as session:
        now = await database_now(session)
        drawing, members = await _drawing(page, session, status)
    params = page.request.query_params
    return page.render(
        "workflow.html",
        title=f"Workflow {status.name or status.id}",
        now=now,
        flow=status,
        drawing=drawing,
        members=members,
        cut=len(members) >= DRAWN,
        may_cancel=page.access.everywhere("cancel") and status.unfinished > 0,
        may_retry=page.access.everywhere("retry") and status.cancelled + status.discarded > 0,
        flash=flash(params.get("done", ""), params.get("n", "")),
    )


async def act(page: Page) -> Response:
    """Cancel what has not ended of a workflow, or retry what failed."""
    form = await read_form(page.request)
    identity, verb = _identity(page), form.one("verb")
    target = f"workflow {identity}"
    if verb not in ("cancel", "retry"):
        raise HTTPException(400, "A workflow can be cancelled and retried.")
    # Its members may be in any queue.
    if not page.access.everywhere("cancel" if verb == "cancel" else "retry"):
        raise refuse(page, f"{verb}_workflow", target=target)
    oban = page.instance.oban
    changed = await (oban.cancel_workflow(identity) if verb == "cancel" else oban.retry_workflow(identity))
    tell(page, f"{verb}_workflow", target=target, count=changed)
    return page.redirect(f"workflows/{identity}", done=f"workflow_{verb}", n=changed)


async def _drawing(page: Page, session: AsyncSession, status: WorkflowStatus) -> tuple[Drawing, list[_Member]]:
    schema = page.instance.oban.schema
    owner: dict[UUID, UUID] = {status.id: status.id}
    for sub in status.subs.values():
        _own(sub, sub.id, owner)
    given = {"flows": list(owner), "limit": DRAWN}
    rows = (await session.execute(neighbours.flow_members(schema), given)).mappings().all()
    members = [
        _Member(
            row["job_id"],
            row["flow_id"],
            row["name"],
            row["state"] or _SETTLED.get(row["settled"] or "", "gone"),
            row["worker"] or "deleted or pruned",
            row["waiting"],
            row["doomed"],
        )
        for row in rows
    ]
    # What is inside of a flow is drawn as that flow.
    key_of: dict[Hashable, Hashable] = {
        each.job_id: each.job_id if each.flow_id == status.id else owner[each.flow_id] for each in members
    }
    key_of.update((key, inside) for key, inside in owner.items())
    ids = {"ids": [each.job_id for each in members]}
    links = (await session.execute(neighbours.links(schema), ids)).mappings().all()
    edges = [
        (key_of[link["parent_id"] or link["flow_id"]], key_of[link["child_id"]])
        for link in links
        if (link["parent_id"] or link["flow_id"]) in key_of and link["child_id"] in key_of
    ]
    nodes = [
        Node(each.job_id, each.name, each.worker.rpartition(".")[2], each.state, page.link(f"jobs/{each.job_id}"))
        for each in members
        if each.flow_id == status.id
    ]
    nodes += [
        Node(
            sub.id,
            name or str(sub.id),
            f"{sub.total - sub.unfinished} of {sub.total} ended",
            sub.state.value,
            page.link(f"workflows/{sub.id}"),
            is_flow=True,
        )
        for name, sub in status.subs.items()
    ]
    return draw(nodes, edges), [each for each in members if each.flow_id == status.id]


def _own(status: WorkflowStatus, by: UUID, owner: dict[UUID, UUID]) -> None:
    owner[status.id] = by
    for sub in status.subs.values():
        _own(sub, by, owner)


def _state(completed_at: object, discarded: int, cancelled: int) -> str:
    if completed_at is None:
        return "executing"
    return "discarded" if discarded else "cancelled" if cancelled else "completed"


def _require_all_queues(page: Page) -> None:
    if page.access.queues is not None:
        raise HTTPException(403, "Workflows go through all queues, and you may look at some of them only.")


def _identity(page: Page) -> UUID:
    found = _uuid(cast("str", page.request.path_params["id"]))
    if found is None:
        raise HTTPException(404, "There is no such workflow.")
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
