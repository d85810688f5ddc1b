"""A worker that takes a step in another process, where there is no journal."""

from __future__ import annotations

from oban_sa import Record, job, step
from oban_sa.workers import Registry

registry = Registry()


@job(registry=registry, executor="process")
def takes_a_step() -> Record:
    """Return what taking a step is refused with."""
    try:
        step("one", int, 1)
    except ValueError as error:
        return Record(str(error))
    return Record("it was taken")
