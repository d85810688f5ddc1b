"""What a runner tells of: each event is a frozen value, and spans of time are seconds.

`docs/telemetry.md` lists every event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any, ClassVar, Final, Self, TypeVar, dataclass_transform

from oban_sa.jobs.states import JobState

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The runner that an event comes from; `name` is its instance name, as in `Runner(name=...)`."""

    node: str
    name: str = "Oban"
    schema: str = "public"


@dataclass_transform(frozen_default=True, kw_only_default=True, eq_default=False, field_specifiers=(field,))
def event(cls: type[T]) -> type[T]:
    """Make a frozen dataclass, which is compared and shown by what `Event` has: made once, and not for each class."""
    return dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)(cls)


@event
class Event:
    """Something that happened in a runner; `name` is the same for all events of a class."""

    name: ClassVar[str] = "oban"
    runner: Source

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return _compared(self) == _compared(other)

    def __hash__(self) -> int:
        return hash((type(self), *_compared(self)))

    def __repr__(self) -> str:
        shown = (f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"


def _compared(event: Event) -> list[object]:
    return [getattr(event, each.name) for each in fields(event) if each.compare]


# Jobs


@event
class JobEvent(Event):
    """Something that happened to one attempt at a job.

    `queue_time` is the seconds between the moment the job was due and the moment it was fetched, by the database's
    clock. `job` is the `Job` itself, for those who want its args, meta or tags.
    """

    name: ClassVar[str] = "oban.job"
    job_id: int
    worker: str
    queue: str
    attempt: int
    max_attempts: int
    queue_time: float = 0.0
    job: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, runner: Source, job: Any, **more: Any) -> Self:
        """Make the event of the `Job` that it is about; `more` are the fields that this event has besides."""
        try:  # past the instrumentation, which takes longer than the rest
            job_id, worker, queue, attempt, max_attempts = _loaded(job.__dict__)
        except KeyError:  # it was never stored, or has to be loaded again
            job_id, worker, queue, attempt, max_attempts = _found(job)
        return cls(
            runner=runner,
            job_id=job_id,
            worker=worker,
            queue=queue,
            attempt=attempt,
            max_attempts=max_attempts,
            job=job,
            **more,
        )


_OF_JOB: Final = ("id", "worker", "queue", "attempt", "max_attempts")
_loaded: Final = itemgetter(*_OF_JOB)
_found: Final = attrgetter(*_OF_JOB)


@event
class JobsEnqueued(Event):
    """A commit has brought `count` jobs of one worker to a queue; told in the program that enqueued them.

    One is told for each worker and queue of a commit. Jobs that are rolled back, also to a savepoint, are never told
    of, nor are those of a session that was given a connection on which another began the transaction.
    """

    name: ClassVar[str] = "oban.job.enqueued"
    queue: str
    worker: str
    count: int


@event
class JobStart(JobEvent):
    """An attempt begins."""

    name: ClassVar[str] = "oban.job.start"


@event
class JobStop(JobEvent):
    """An attempt ended without failing: `completed`, `scheduled` (snoozed), `cancelled` or `available` (given back)."""

    name: ClassVar[str] = "oban.job.stop"
    state: JobState
    duration: float


@event
class JobException(JobEvent):
    """An attempt failed: the job is `retryable` in `retry_in` seconds, or `discarded`."""

    name: ClassVar[str] = "oban.job.exception"
    state: JobState
    duration: float
    error: BaseException | None = None
    retry_in: float | None = None


@event
class JobStale(JobEvent):
    """An outcome came too late: the attempt no longer held its job, so `state` was not written."""

    name: ClassVar[str] = "oban.job.stale"
    state: JobState


@event
class JobIdle(JobEvent):
    """An attempt left its connection idle in a transaction, for `idle` seconds so far; told once of each attempt."""

    name: ClassVar[str] = "oban.job.idle"
    idle: float


# Queues


@event
class WorkerUnknown(Event):
    """A queue has jobs of a `worker` that this program does not know; with a `version` it can't read args of that.

    They are left to other programs; told once of each worker and queue, and not for each job.
    """

    name: ClassVar[str] = "oban.worker.unknown"
    queue: str
    worker: str
    version: int | None
    error: BaseException


@event
class ProducerFetch(Event):
    """A queue asked for `demand` jobs and got `count`."""

    name: ClassVar[str] = "oban.producer.fetch"
    queue: str
    demand: int
    count: int
    duration: float


@event
class ProducerAck(Event):
    """Outcomes were written: `count` of them, of which `stale` were refused because the attempt had lost its job."""

    name: ClassVar[str] = "oban.producer.ack"
    queue: str | None = None
    count: int
    stale: int = 0
    duration: float


@event
class ProducerLost(Event):
    """A queue found its own producer row gone, as when it was taken for dead, and wrote it again."""

    name: ClassVar[str] = "oban.producer.lost"
    queue: str


# Parts of a runner


@event
class StagerStage(Event):
    """Due jobs became available: `count` of them, in `queues`."""

    name: ClassVar[str] = "oban.stager.stage"
    count: int
    queues: tuple[str, ...] = ()
    duration: float


@event
class SettlerSettle(Event):
    """`count` notes of some `lanes` were booked in one statement: what has become of members of flows.

    Of what waited for them `released` jobs may run, and `cancelled` never can; `closed` flows are over.
    """

    name: ClassVar[str] = "oban.settler.settle"
    lanes: tuple[int, ...]
    count: int
    released: int
    cancelled: int
    closed: int
    duration: float


@event
class LeaderElection(Event):
    """A node became the leader, or ceased to be."""

    name: ClassVar[str] = "oban.leader.election"
    leader: bool


@event
class LifelineRescue(Event):
    """Jobs of dead nodes were given to others: `count` of them, of which `discarded` had no attempt left."""

    name: ClassVar[str] = "oban.lifeline.rescue"
    count: int
    discarded: int = 0
    job_ids: tuple[int, ...] = ()
    duration: float


@event
class PrunerPrune(Event):
    """Jobs that were over were deleted: `count` of them, in transactions that took `duration` seconds together.

    `workflows` is how many workflows and batches went with their jobs.
    """

    name: ClassVar[str] = "oban.pruner.prune"
    count: int
    completed: int = 0
    cancelled: int = 0
    discarded: int = 0
    workflows: int = 0
    duration: float


@event
class SchedulerTick(Event):
    """Entries of the crontab were due at `at`, by the database's clock: `count` jobs were made.

    `skipped` is how many entries had none made because their job before is unfinished, and `paused` because they are
    paused.
    """

    name: ClassVar[str] = "oban.scheduler.tick"
    at: datetime
    count: int
    skipped: int = 0
    paused: int = 0
    duration: float


@event
class NotifierConnected(Event):
    """The runner listens, and heard its own probe."""

    name: ClassVar[str] = "oban.notifier.connected"


@event
class NotifierDisconnected(Event):
    """The listening connection broke; the runner polls, and tries again in `retry_in` seconds."""

    name: ClassVar[str] = "oban.notifier.disconnected"
    error: BaseException | None = None
    retry_in: float


@event
class NotifierDeaf(Event):
    """The listening connection never heard its own probe, as happens behind a transaction pooler; the runner polls."""

    name: ClassVar[str] = "oban.notifier.deaf"


@event
class RunnerStart(Event):
    """A runner works; `queues` holds each queue's limit."""

    name: ClassVar[str] = "oban.runner.start"
    queues: Mapping[str, int]


@event
class RunnerStopping(Event):
    """A runner fetches no more and gives its `running` jobs `grace` seconds."""

    name: ClassVar[str] = "oban.runner.stopping"
    running: int
    grace: float


@event
class RunnerStop(Event):
    """A runner stopped after `duration` seconds of work, having given `given_back` unfinished jobs back unspent."""

    name: ClassVar[str] = "oban.runner.stop"
    duration: float
    given_back: int = 0


@event
class RunnerRetry(Event):
    """A query of `part` failed for the `attempt`-th time in a row and is tried again in `retry_in` seconds.

    `database_away` says that the database could not be reached, in which case every part fails.
    """

    name: ClassVar[str] = "oban.runner.retry"
    part: str
    attempt: int
    retry_in: float
    error: BaseException
    database_away: bool = False


@event
class RunnerRecover(Event):
    """A query of `part` works again after `attempts` failures that lasted `duration` seconds."""

    name: ClassVar[str] = "oban.runner.recover"
    part: str
    attempts: int
    duration: float


@event
class RunnerLocked(Event):
    """A statement of the runner waits for a lock that another session holds, the server's process `pid`.

    `held_for` is how many seconds that session has been in its transaction, and `query` what it ran last; what the
    runner's user may not see is empty or None. A `pid` of 0 is a prepared transaction.
    """

    name: ClassVar[str] = "oban.runner.locked"
    pid: int
    application: str = ""
    user: str = ""
    state: str = ""
    held_for: float | None = None
    query: str = ""


@event
class RunnerLag(Event):
    """The event loop stood still for `lag` seconds, at `place` (file and line) in the code of a job where one is named.

    Told once the loop turns again. `task` is the name of the task that held it.
    """

    name: ClassVar[str] = "oban.runner.lag"
    lag: float
    place: str | None = None
    task: str | None = None
    job_id: int | None = None
    worker: str | None = None
