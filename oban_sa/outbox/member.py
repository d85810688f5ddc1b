"""What may be a member of a flow, and which names it may have."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import cast

from oban_sa.errors import InvalidJob, articled, shown
from oban_sa.jobs.flow import listed_or_one
from oban_sa.models import Job
from oban_sa.outbox.admission import MEMBER, check


def check_member(job: Job, name: str) -> None:
    """Accept a job that can be a member; raises `InvalidJob`, and `TypeError` for what is no job."""
    check(job, written=MEMBER)
    if "_unique" in vars(job):
        raise InvalidJob(
            f"the job of {name!r} is unique, and a member can't be: what waits for it would wait for another job; "
            "make the workflow unique, as Workflow('nightly', unique=True), or leave out unique= with "
            ".options(unique=False)"
        )


def several(jobs: object, what: str, *, one: str) -> list[Job]:
    """Return the jobs that `what` was given; raises `InvalidJob` where they are none, or `one` that is by itself."""
    if isinstance(jobs, Job):
        raise InvalidJob(f"{what} takes several jobs; for one write {one}")
    if isinstance(jobs, AsyncIterable):
        raise InvalidJob(f"{what} can't await; write [job async for job in jobs]")
    listed = listed_or_one(jobs)
    if len(listed) == 1 and listed[0] is jobs:
        raise InvalidJob(f"{what} takes a list of jobs, and this is {articled(type(jobs).__name__)}: {shown(jobs, 60)}")
    return cast("list[Job]", listed)


def check_name(name: object, what: str) -> None:
    """Accept the name of a workflow, a batch or a member; raises `InvalidJob`."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidJob(f"the name of {what} is a text that is not empty, not {shown(name)}")
    if "\0" in name or len(name) > _LONGEST or not _is_text(name):
        raise InvalidJob(
            f"the name of {what} has at most {_LONGEST} characters, no NUL and no lone surrogate, and this is "
            f"{shown(name, 60)}"
        )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


_LONGEST = 255
"""Characters of a name: it stands in an index, and in the meta of what waits for it."""
