"""What is done to jobs: verbs, who may, and which jobs each leaves alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, select
from starlette.exceptions import HTTPException

from oban_sa.client.read import read_session
from oban_sa.jobs.states import FINAL, JobState
from oban_sa.models import Job
from oban_sa.sql.browse import by_id
from oban_sa.web.audit import refuse, tell
from oban_sa.web.page import Page

MOST_IDS: Final = 1_000
"""Jobs that may be chosen one by one."""


@dataclass(frozen=True, slots=True)
class Act:
    """A verb: what its button says, the states in which it changes a job, and whether it asks first."""

    name: Literal["retry", "cancel", "delete"]
    title: str
    states: frozenset[JobState]
    asks: bool

    @classmethod
    def read(cls, word: str) -> Act:
        """Return the verb of a form; raises `HTTPException` for any other word."""
        found = ACTS.get(word)
        if found is None:
            raise HTTPException(400, "A job can be retried, cancelled or deleted.")
        return found

    def applies(self, job: Job) -> bool:
        """Return whether it would change a job."""
        return job.state in self.states

    def require(self, page: Page, *, job_ids: Sequence[int] = (), query: str | None = None) -> None:
        """Raise where a visitor may do it nowhere, and tell of that."""
        if not page.access.may(self.name):
            raise refuse(page, self.name, job_ids=tuple(job_ids), query=query)


ACTS: Final[dict[str, Act]] = {
    act.name: act
    for act in (
        Act("retry", "Retry", frozenset(JobState) - {JobState.AVAILABLE, JobState.EXECUTING}, asks=False),
        Act("cancel", "Cancel", frozenset(JobState) - FINAL, asks=False),
        Act("delete", "Delete", frozenset(JobState) - {JobState.EXECUTING}, asks=True),
    )
}


async def change_jobs(page: Page, act: Act, ids: Sequence[int], *, query: str | None = None) -> int:
    """Do it to jobs, and return how many were changed.

    Raises `HTTPException`, and changes none, where the visitor may not do it in the queue of one of them.
    """
    act.require(page, job_ids=ids, query=query)
    oban = page.instance.oban
    methods: dict[str, Callable[..., Awaitable[int]]] = {
        "retry": oban.retry_jobs,
        "cancel": oban.cancel_jobs,
        "delete": oban.delete_jobs,
    }
    # The states too, so that a job that has got into another one meanwhile is left alone.
    conditions: list[ColumnElement[bool]] = [by_id(ids), Job.state.in_(sorted(act.states))]
    queues = page.access.within(act.name)
    if queues is not None:
        async with read_session(page.instance.reader) as session:
            found = set(await session.scalars(select(Job.queue).where(by_id(ids)).distinct()))
        if found - queues:
            raise refuse(page, act.name, job_ids=tuple(ids), query=query)
        # Again where the rows are locked: an update may have moved a job to another queue meanwhile.
        conditions.append(Job.queue.in_(sorted(queues)))
    changed = await methods[act.name](*conditions)
    tell(page, act.name, job_ids=() if query is not None else ids, query=query, count=changed)
    return changed


def read_ids(words: Sequence[str]) -> list[int]:
    """Read ids of jobs; raises `HTTPException` for other words, and for too many."""
    if len(words) > MOST_IDS:
        raise HTTPException(400, f"At most {MOST_IDS:,} jobs are chosen at once.")
    ids = [read_id(word) for word in words]
    return list(dict.fromkeys(ids))


def read_id(word: str) -> int:
    """Read the id of a job; raises `HTTPException` where no job could have it."""
    number = int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
    if not 0 < number < 2**63:
        raise HTTPException(404, "There is no such job.")
    return number
