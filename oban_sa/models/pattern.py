"""What all jobs of a worker have in common, checked once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from oban_sa import values
from oban_sa.models import rules
from oban_sa.states import JobState


@dataclass(frozen=True, slots=True)
class Pattern:
    """Keywords of `Job` as `given`, and as the `columns` that they lead to; tags and meta are each job's own.

    Nothing in it may be changed.
    """

    given: dict[str, Any]
    columns: dict[str, Any]
    tags: list[str]
    meta: dict[str, Any]

    @classmethod
    def of(
        cls,
        worker: str,
        *,
        queue: str = "default",
        max_attempts: int = 20,
        priority: int = 0,
        tags: Iterable[str] = (),
        meta: dict[str, Any] | None = None,
    ) -> Self:
        """Check what jobs have in common; raises `InvalidJob` as their constructor does."""
        columns: dict[str, Any] = {
            "worker": rules.name(worker, "worker"),
            "state": JobState.AVAILABLE,
            "queue": rules.name(queue, "queue"),
            "max_attempts": rules.max_attempts(max_attempts),
            "attempt": 0,
            "priority": rules.priority(priority),
            # A place for each of a job's own, so that its columns stand in the order that the constructor leaves.
            **dict.fromkeys(("args", "meta", "tags", "attempted_by")),
            **dict.fromkeys(("scheduled_at", "inserted_at", "attempted_at")),
            **dict.fromkeys(("cancelled_at", "completed_at", "discarded_at")),
        }
        cleaned, plain = rules.tags(tags), values.to_json(rules.json_object(meta, "meta"), where="meta")
        given = {"worker": worker, "queue": queue, "max_attempts": max_attempts, "priority": priority}
        return cls({**given, "tags": cleaned, "meta": plain}, columns, cleaned, plain)
