"""What may be a member of a flow, and which names it may have."""

from __future__ import annotations

from oban_sa.errors import InvalidJob, shown
from oban_sa.models import Job
from oban_sa.outbox.admission import check


def check_member(job: Job, name: str) -> None:
    """Accept a job that can be a member; raises `InvalidJob`, and `TypeError` for what is no job."""
    check(job, written="{}")
    if "_unique" in vars(job):
        raise InvalidJob(
            f"the job of {name!r} is unique, and a member can't be: what waits for it would wait for another job; "
            "make the workflow unique, as Workflow('nightly', unique=True), or leave out unique= with "
            ".options(unique=False)"
        )


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
