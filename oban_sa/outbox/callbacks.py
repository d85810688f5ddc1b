"""Callbacks of a batch: jobs that the database makes when something happens to it, kept as JSON until then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

from sqlalchemy.orm import Session

from oban_sa.errors import InvalidJob
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict, replace_references, to_json
from oban_sa.models import Job
from oban_sa.outbox import references
from oban_sa.outbox.admission import MEMBER, admit, check, plain
from oban_sa.outbox.rows import sealed

_KEPT: Final = ("worker", "queue", "priority", "max_attempts")


def check_callback(job: Job, event: str) -> None:
    """Accept a job that can be made later, and more than once; raises `InvalidJob` and what `check` raises."""
    check(job, written=MEMBER)
    loaded = vars(job)
    if "_unique" in loaded:
        raise InvalidJob(
            f"the job of {event} is unique, and a callback can't be: it is made in the database, once for each batch; "
            "write .options(unique=False)"
        )
    if loaded.get("scheduled_at") is not None or loaded.get("state") != JobState.AVAILABLE:
        raise InvalidJob(f"the job of {event} is available as soon as that happens; leave out when it is to run")
    if loaded.get("id") is not None:
        raise InvalidJob(f"the job of {event} gets its id when it is made; leave out id=")


def plain_callbacks(callbacks: Mapping[str, Job], session: Session) -> None:
    """Make JSON of the args and meta of callbacks, with references left in place; raises what `plain` raises."""
    for job in callbacks.values():
        loaded = vars(job)
        for column in ("args", "meta"):
            loaded[column] = plain(loaded.get(column), column, session)


def templates(callbacks: Mapping[str, Job]) -> JSONDict | None:
    """Return what the database makes jobs of, by event, once the flush has given references their values.

    Hooks see each job now, and no more when it is made.
    """
    made: JSONDict = {}
    for event, job in callbacks.items():
        admit(job)
        loaded = vars(job)
        args, meta = (_final(loaded.get(column), column) for column in ("args", "meta"))
        made[event] = {
            **{column: loaded[column] for column in _KEPT},
            "tags": list(loaded.get("tags") or ()),
            "args": sealed(job.worker, args, meta),
            "meta": meta,
        }
    return made or None


def _final(value: object, where: str) -> JSONDict:
    written = to_json({} if value is None else value, where=where)  # once more, for a hook may have changed it
    return cast("JSONDict", replace_references(written, references.final, where=where))
