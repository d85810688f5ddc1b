"""What may be a member of a flow, and which names it may have."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from typing import cast

from oban_sa.errors import InvalidJob, articled, shown
from oban_sa.models import Job
from oban_sa.outbox.admission import check
from oban_sa.outbox.staged import Flow


def check_member(job: Job, name: str) -> None:
    """Accept a job that can be a member; raises `InvalidJob`, and `TypeError` for what is no job."""
    given = cast("object", job)
    if isinstance(given, (Flow, list, tuple)):
        kind: str = type(cast("object", given)).__name__
        raise TypeError(
            f"a member is one Job, and {name!r} is {articled(kind)}; a workflow inside of another one "
            "is added by add_workflow(name, workflow), and many jobs under one name by add_many(name, jobs)"
        )
    check(job, written="{}")
    if "_unique" in vars(job):
        raise InvalidJob(
            f"the job of {name!r} is unique, and a member can't be: what waits for it would wait for another job; "
            "make the workflow unique, as Workflow('nightly', unique=True), or leave out unique= with "
            ".options(unique=False)"
        )


def listed(jobs: Iterable[Job], what: str, one: str) -> list[Job]:
    """Return several jobs as a list; `one` says what to write for a single one. Raises `InvalidJob`."""
    if isinstance(jobs, Job):
        raise InvalidJob(f"{what} takes several jobs; for one write {one}")
    if isinstance(jobs, AsyncIterable):
        raise InvalidJob(f"{what} can't await; write [job async for job in jobs]")
    return list(jobs)


def check_name(name: object, what: str) -> None:
    """Accept the name of a workflow, a batch or a member; raises `InvalidJob`."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidJob(f"the name of {what} is a text that is not empty, not {shown(name)}")
    if "\0" in name or len(name) > _LONGEST:
        raise InvalidJob(
            f"the name of {what} has at most {_LONGEST} characters and no NUL, and this is {shown(name, 60)}"
        )


_LONGEST = 255
"""Characters of a name: it stands in an index, and in the meta of what waits for it."""
