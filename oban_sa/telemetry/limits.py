"""What is told of unique jobs, of rates and of sequences: only where something changes, and not at each fetch."""

from __future__ import annotations

from typing import ClassVar

from oban_sa.jobs.states import JobState
from oban_sa.telemetry.events import Event, event


@event
class UniqueConflict(Event):
    """A flush did not insert a job, since the job `job_id` stood in its way, which was in `state`.

    Of that one `replaced` are the options that the new one has changed. Told in the program that flushed, which may be
    no runner, and also where the transaction is rolled back afterwards.
    """

    name: ClassVar[str] = "oban.unique.conflict"
    worker: str
    queue: str
    job_id: int
    state: JobState
    replaced: tuple[str, ...] = ()


@event
class RateSpent(Event):
    """A queue has spent its rate, so that no job of it starts here for `available_in` seconds."""

    name: ClassVar[str] = "oban.rate.spent"
    queue: str
    available_in: float


@event
class RateAvailable(Event):
    """A queue whose rate was spent has some left after a fetch."""

    name: ClassVar[str] = "oban.rate.available"
    queue: str


@event
class SequenceHalted(Event):
    """The jobs of a sequence wait since the job `job_id` of it was discarded; told by the leader."""

    name: ClassVar[str] = "oban.sequence.halted"
    queue: str
    key: str
    job_id: int
    worker: str


@event
class SequenceResumed(Event):
    """A sequence is halted no longer: the job that did it was retried or deleted, or people let the others go on."""

    name: ClassVar[str] = "oban.sequence.resumed"
    queue: str
    key: str
