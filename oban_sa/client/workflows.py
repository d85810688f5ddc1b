"""What `Oban` does with stored workflows: look at them, cancel them, retry them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from graphlib import CycleError, TopologicalSorter
from typing import Final
from uuid import UUID

from sqlalchemy import RowMapping

from oban_sa.client.append import append
from oban_sa.client.transactions import Transactions, Work
from oban_sa.describe.choices import choice, is_whole
from oban_sa.errors import InvalidOption, JobNotFound, WorkflowNotFound, articled, nearest, shown
from oban_sa.jobs.flow import Forgiven, lane_of
from oban_sa.jobs.states import JobState
from oban_sa.models import Job, validation
from oban_sa.outbox.member import check_name
from oban_sa.outbox.sessions import AnySession
from oban_sa.outbox.staged import Flow
from oban_sa.sql.control import by_ids, cancel
from oban_sa.sql.flow import note
from oban_sa.sql.workflow import cut, dependants, members, named, newest, order, retry, some_names, status

_MOST: Final = 100_000
"""Workflows that are listed at once."""

_STATES: Final = ("executing", "completed", "cancelled", "discarded")


@dataclass(frozen=True, slots=True)
class WorkflowStatus:
    """How a workflow stands, or a group or a workflow inside of one; it counts the members of those inside too.

    `state` is executing until all members have ended, then discarded where one was discarded or deleted, else cancelled
    where one was cancelled, else completed. `discarded` counts the deleted ones too. `duration` is in seconds: from the
    start of the first member until all had ended, or until now.
    """

    id: UUID
    name: str | None
    state: JobState
    total: int
    unfinished: int
    completed: int
    cancelled: int
    discarded: int
    inserted_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration: float | None
    subs: Mapping[str, WorkflowStatus] = field(default_factory=dict["str", "WorkflowStatus"])
    """The groups, grafts and workflows inside, by their names."""
    kind: str = "workflow"
    """What it is: a workflow, a batch, a group or a graft."""

    @property
    def counts(self) -> dict[JobState, int]:
        """How many members have ended in which state."""
        return {
            JobState.COMPLETED: self.completed,
            JobState.CANCELLED: self.cancelled,
            JobState.DISCARDED: self.discarded,
        }


class WorkflowControl:
    """Methods on workflows that are stored, given by id or as the `Workflow` that was enqueued.

    Each runs in a transaction of its own, or in that of `session`, which is flushed first. The counters are booked by
    runners, and so are a moment behind the jobs. Raises `WorkflowNotFound`, and `InvalidOption` for what is no id.
    """

    _transactions: Transactions

    async def workflow(self, workflow: UUID | str | Flow, *, session: AnySession | None = None) -> WorkflowStatus:
        """Return how a workflow stands."""
        identity = _identity(workflow)
        return await self._transactions.run(lambda work: _status(_rows(work, identity)), session)

    async def list_workflows(
        self,
        *,
        name: str | None = None,
        state: JobState | str | None = None,
        limit: int = 20,
        session: AnySession | None = None,
    ) -> list[WorkflowStatus]:
        """Return the newest workflows and batches, the last made first, without what is inside of them.

        `state` is one that `WorkflowStatus` has. Raises `InvalidOption` for another one, and for a limit below 1, and
        `InvalidJob` for what is no name.
        """
        if not is_whole(limit, 1, _MOST):
            raise InvalidOption(f"limit is how many workflows are listed at most, 1 to {_MOST}, not {shown(limit)}")
        if name is not None:
            check_name(name, "a workflow")
        if state is not None:
            choice(state, _STATES, what="state")
        given = {"name": name, "state": None if state is None else str(state), "limit": limit}
        return await self._transactions.run(
            lambda work: [_of_row(row, {}) for row in work.execute(newest(work.schema), given).mappings()], session
        )

    async def cancel_workflow(self, workflow: UUID | str | Flow, *, session: AnySession | None = None) -> int:
        """Cancel all members that have not ended, also those of workflows inside, and return how many.

        Those executing are asked to stop, and count. Members that join it later, by a graft or `append`, are cancelled
        too.
        """
        identity = _identity(workflow)

        def work(work: Work) -> int:
            rows = _rows(work, identity)
            ids = _members(work, rows)
            channel = work.channel("signal", always=True)
            given: dict[str, object] = {"ids": ids} if channel is None else {"ids": ids, "signal": channel}
            statement = cancel(by_ids(), signalling=channel is not None, followers=(note,))
            cancelled = int(work.execute(statement, given).one()[0])
            if rows[0]["completed_at"] is None:
                # After the notes of its members, which most probably are all.
                work.execute(cut(work.schema), {"lane": _lane(rows[0], identity), "flow": identity})
            work.refresh(ids)
            return cancelled

        return await self._transactions.run(work, session)

    async def append(
        self,
        session: AnySession,
        workflow: UUID | str | Flow,
        name: str,
        job: Job,
        *,
        deps: str | Iterable[str] = (),
        forgive: Forgiven | Mapping[str, Forgiven] = (),
    ) -> Job:
        """Add a job to a workflow or batch that is stored, in a session, which is flushed; return the job.

        It waits for `deps`, names of members, groups or workflows in it; `forgive` is as in `Workflow.add`. Until the
        session's transaction ends the workflow is not over, whatever has ended meanwhile. Raises `InvalidJob` where it
        is over already, where it has a part of this name or none of the names in `deps`, and for a job that can't be a
        member.
        """
        identity = _identity(workflow)
        return await self._transactions.run(
            lambda work: append(work, identity, name, job, deps=deps, forgive=forgive), session
        )

    async def retry_workflow(
        self,
        workflow: UUID | str | Flow,
        *,
        from_: str | None = None,
        attempts: int = 1,
        callbacks: bool = False,
        session: AnySession | None = None,
    ) -> int:
        """Run again what failed, and what was cancelled because of it; return how many members.

        With `from_`, the name of a member, or of a group or workflow inside, these members and all that wait for them
        run again, however they ended. Each waits again for what it waited for, and has at least `attempts` left. What
        has not ended, or was deleted, stays as it is. With `callbacks` a batch makes the jobs of its callbacks anew, as
        what they are of happens anew: that of `on_complete` once all have ended again. Raises `JobNotFound` where no
        member has the name.
        """
        identity, attempts = _identity(workflow), validation.attempts_left(attempts)
        if from_ is not None:
            check_name(from_, "what is to run again from")
        if type(callbacks) is not bool:
            raise InvalidOption(f"callbacks of a retry is True or False, got {shown(callbacks)}")

        def work(work: Work) -> int:
            rows = _rows(work, identity)
            states = ["discarded", "cancelled"]
            if from_ is None:
                ids = _members(work, rows)
            else:
                states.append("completed")
                found = work.execute(named(work.schema), {"flow": identity, "name": from_}).scalars().all()
                if not found:
                    known = work.execute(some_names(work.schema), {"flow": identity}).scalars().all()
                    raise JobNotFound(
                        f"the workflow {identity} has no member, group or workflow named {from_!r}"
                        + nearest(from_, known, "for one in a workflow inside of it give the id of that, as in .subs")
                    )
                ids = list(work.execute(dependants(work.schema), {"ids": list(found)}).scalars())
            ids = _in_order(work, ids)
            lane, anew = _lane(rows[0], identity), identity if callbacks else None
            given = {"ids": ids, "states": states, "attempts": attempts, "lane": lane, "anew": anew}
            retried = list(work.execute(retry(work.schema), given).scalars())
            work.refresh(retried)
            return len(retried)

        return await self._transactions.run(work, session)


def _identity(workflow: UUID | str | Flow) -> UUID:
    given: object = workflow
    if isinstance(given, Flow):
        return given.id
    if isinstance(given, str):
        try:
            return UUID(given)
        except ValueError:
            raise InvalidOption(
                f"{given!r} is no id of a workflow; that is a UUID, as flow.id and `workflows list` have it"
            ) from None
    if not isinstance(given, UUID):  # pyright: ignore[reportUnnecessaryIsInstance]
        hint = "; write .inner, or the .id of a group" if hasattr(given, "waits") else ""
        raise InvalidOption(
            f"a workflow is given by its id or as a Workflow, not as {articled(type(given).__name__)}{hint}"
        )
    return given


def _lane(row: RowMapping, identity: UUID) -> int:
    """Return the lane of a flow's tree; the path of a row that another program wrote may lead nowhere."""
    root: UUID | None = next(iter(row["path"]), None)
    return lane_of(root or identity)


def _rows(work: Work, identity: UUID) -> list[RowMapping]:
    rows = list(work.execute(status(work.schema), {"id": identity}).mappings())
    if not rows:
        raise WorkflowNotFound(
            f"no workflow in schema {work.schema!r} has the id {identity}; it was pruned, or never was"
        )
    return rows


def _members(work: Work, rows: list[RowMapping]) -> list[int]:
    return list(work.execute(members(work.schema), {"flows": [row["id"] for row in rows]}).scalars())


def _in_order(work: Work, ids: list[int]) -> list[int]:
    """Return members in an order in which each stands after what it waits for."""
    graph: TopologicalSorter[int | UUID] = TopologicalSorter(dict.fromkeys(ids, ()))
    for row in work.execute(order(work.schema), {"ids": ids}):
        child, parent, flow = row.child_id, row.parent_id, row.flow_id
        before, after = (parent, flow) if child is None else (flow if parent is None else parent, child)
        graph.add(after, before)
    try:
        return [each for each in graph.static_order() if isinstance(each, int)]
    except CycleError:  # another program wrote that; what waits for itself has no place
        return ids


def _status(rows: list[RowMapping]) -> WorkflowStatus:
    """Make one of the rows of a flow and those inside it; each comes after the one around it."""
    made: dict[UUID, tuple[WorkflowStatus, dict[str, WorkflowStatus]]] = {}
    for row in rows:
        subs: dict[str, WorkflowStatus] = {}
        each = _of_row(row, subs)
        made[row["id"]] = each, subs
        if len(row["path"]) > 1 and (around := made.get(row["path"][-2])) is not None and row["name"]:
            around[1][row["name"]] = each
    return made[rows[0]["id"]][0]


def _of_row(row: RowMapping, subs: Mapping[str, WorkflowStatus]) -> WorkflowStatus:
    if row["completed_at"] is None:
        state = JobState.EXECUTING
    elif row["discarded"]:
        state = JobState.DISCARDED
    else:
        state = JobState.CANCELLED if row["cancelled"] else JobState.COMPLETED
    inserted_at: datetime = row["inserted_at"]
    return WorkflowStatus(
        id=row["id"],
        name=row["name"],
        state=state,
        total=row["total"],
        unfinished=row["unfinished"],
        completed=row["completed"],
        cancelled=row["cancelled"],
        discarded=row["discarded"],
        inserted_at=inserted_at.replace(tzinfo=UTC),
        started_at=_aware(row["started_at"]),
        completed_at=_aware(row["completed_at"]),
        duration=row["duration"],
        subs=subs,
        kind=row["kind"],
    )


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
