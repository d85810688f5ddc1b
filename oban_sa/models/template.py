"""What all jobs of a worker have in common, checked once."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.jobs.values import JSONDict
from oban_sa.models import validation


class Pattern(NamedTuple):
    """Keywords of `Job` as `given`, and as the `columns` that they lead to; tags and meta are each job's own.

    Nothing in it may be changed.
    """

    given: dict[str, Any]
    columns: dict[str, object]
    tags: list[str]
    meta: JSONDict

    @classmethod
    def of(
        cls,
        worker: str,
        *,
        queue: str = "default",
        max_attempts: int = 20,
        priority: int = 0,
        tags: Iterable[str] = (),
        meta: JSONDict | None = None,
        unique: Unique | None = None,
    ) -> Self:
        """Check what jobs have in common; raises `InvalidJob` as their constructor does."""
        columns: dict[str, object] = {
            "worker": validation.name(worker, "worker"),
            "state": JobState.AVAILABLE,
            "queue": validation.name(queue, "queue"),
            "max_attempts": validation.max_attempts(max_attempts),
            "attempt": 0,
            "priority": validation.priority(priority),
            # A place for each of a job's own, so that its columns stand in the order that the constructor leaves.
            **dict.fromkeys(("args", "meta", "tags", "attempted_by")),
            **dict.fromkeys(("scheduled_at", "inserted_at", "attempted_at")),
            **dict.fromkeys(("cancelled_at", "completed_at", "discarded_at")),
        }
        if unique is not None:
            columns["_unique"] = unique  # no column, but every job of the worker has it
        cleaned, plain = validation.tags(tags), values.to_json(validation.json_object(meta, "meta"), where="meta")
        given: dict[str, Any] = {"worker": worker, "queue": queue, "max_attempts": max_attempts, "priority": priority}
        if unique is not None:
            given["unique"] = unique
        return cls({**given, "tags": cleaned, "meta": plain}, columns, cleaned, plain)
