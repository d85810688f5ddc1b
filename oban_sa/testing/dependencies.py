"""What members of workflows waited for, where they are drained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from oban_sa.flows.dependencies import DEPS, Deps, enter
from oban_sa.models import Job
from oban_sa.testing.binds import Binding

GivenDeps: TypeAlias = tuple[Mapping[str, object], Mapping[str, object] | None]
"""Results by the names of what recorded them, and the context of the workflow."""


def give(job: Job, results: Mapping[str, object], context: Mapping[str, object] | None) -> None:
    """Make `deps()` answer what a test says, in this context, and give the job the arguments that are among it."""
    found = Deps.given(job, results, context)
    DEPS.set(found)
    found.fill_at_once()


class BoundDependencies:
    """Reads it where the jobs are: behind an engine, or in the transaction that is open."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        binding = self._binding
        await enter(job, lambda make, given: binding.fetch(make(binding.schema), given))

    async def close(self) -> None:
        """Do nothing: the binding is the caller's."""
