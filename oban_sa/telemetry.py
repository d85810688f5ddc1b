"""Typed events that say what a runner does, and the functions that listen to them.

    detach = telemetry.attach(lambda event: print(event.worker, event.duration), telemetry.JobStop)

An event is a frozen value. Listening to a base class (`JobEvent`, `Event`) is listening to every event below it.
Spans of time are seconds. `docs/telemetry.md` lists every event.

Handlers are called where the event happens, often on the runner's event loop: a slow one delays jobs. A handler that
raises is logged once and harms nothing else.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final, Self, TypeVar, cast

from oban_sa import callables, failures
from oban_sa.errors import InvalidOption
from oban_sa.states import JobState

logger = logging.getLogger("oban_sa.telemetry")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The runner that an event comes from; `name` is its instance name, as in `Runner(name=...)`."""

    node: str
    name: str = "Oban"
    schema: str = "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in a runner; `name` is the same for all events of a class."""

    name: ClassVar[str] = "oban"
    runner: Source


# Jobs


@dataclass(frozen=True, slots=True, kw_only=True)
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
        return cls(
            runner=runner,
            job_id=job.id,
            worker=job.worker,
            queue=job.queue,
            attempt=job.attempt,
            max_attempts=job.max_attempts,
            job=job,
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart(JobEvent):
    """An attempt begins."""

    name: ClassVar[str] = "oban.job.start"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStop(JobEvent):
    """An attempt ended without failing: `completed`, `scheduled` (snoozed), `cancelled` or `available` (given back)."""

    name: ClassVar[str] = "oban.job.stop"
    state: JobState
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobException(JobEvent):
    """An attempt failed: the job is `retryable` in `retry_in` seconds, or `discarded`."""

    name: ClassVar[str] = "oban.job.exception"
    state: JobState
    duration: float
    error: BaseException | None = None
    retry_in: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStale(JobEvent):
    """An outcome came too late: the attempt no longer held its job, so `state` was not written."""

    name: ClassVar[str] = "oban.job.stale"
    state: JobState


@dataclass(frozen=True, slots=True, kw_only=True)
class JobIdle(JobEvent):
    """An attempt left its connection idle in a transaction, for `idle` seconds so far; told once of each attempt."""

    name: ClassVar[str] = "oban.job.idle"
    idle: float


# Queues


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerUnknown(Event):
    """A queue has jobs of a `worker` that this program does not know; with a `version` it can't read args of that.

    They are left to other programs; told once of each worker and queue, and not for each job.
    """

    name: ClassVar[str] = "oban.worker.unknown"
    queue: str
    worker: str
    version: int | None
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerFetch(Event):
    """A queue asked for `demand` jobs and got `count`."""

    name: ClassVar[str] = "oban.producer.fetch"
    queue: str
    demand: int
    count: int
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerAck(Event):
    """Outcomes were written: `count` of them, of which `stale` were refused because the attempt had lost its job."""

    name: ClassVar[str] = "oban.producer.ack"
    queue: str | None = None
    count: int
    stale: int = 0
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProducerLost(Event):
    """A queue found its own producer row gone, as when it was taken for dead, and wrote it again."""

    name: ClassVar[str] = "oban.producer.lost"
    queue: str


# Parts of a runner


@dataclass(frozen=True, slots=True, kw_only=True)
class StagerStage(Event):
    """Due jobs became available: `count` of them, in `queues`."""

    name: ClassVar[str] = "oban.stager.stage"
    count: int
    queues: tuple[str, ...] = ()
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderElection(Event):
    """A node became the leader, or ceased to be."""

    name: ClassVar[str] = "oban.leader.election"
    leader: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LifelineRescue(Event):
    """Jobs of dead nodes were given to others: `count` of them, of which `discarded` had no attempt left."""

    name: ClassVar[str] = "oban.lifeline.rescue"
    count: int
    discarded: int = 0
    job_ids: tuple[int, ...] = ()
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunerPrune(Event):
    """Jobs that were over were deleted: `count` of them, in transactions that took `duration` seconds together."""

    name: ClassVar[str] = "oban.pruner.prune"
    count: int
    completed: int = 0
    cancelled: int = 0
    discarded: int = 0
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerTick(Event):
    """Entries of the crontab were due at `at`, by the database's clock: `count` jobs were made.

    `skipped` is how many entries had none made because their job before is unfinished.
    """

    name: ClassVar[str] = "oban.scheduler.tick"
    at: datetime
    count: int
    skipped: int = 0
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifierConnected(Event):
    """The runner listens, and heard its own probe."""

    name: ClassVar[str] = "oban.notifier.connected"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifierDisconnected(Event):
    """The listening connection broke; the runner polls, and tries again in `retry_in` seconds."""

    name: ClassVar[str] = "oban.notifier.disconnected"
    error: BaseException | None = None
    retry_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotifierDeaf(Event):
    """The listening connection never heard its own probe, as happens behind a transaction pooler; the runner polls."""

    name: ClassVar[str] = "oban.notifier.deaf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStart(Event):
    """A runner works; `queues` holds each queue's limit."""

    name: ClassVar[str] = "oban.runner.start"
    queues: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStopping(Event):
    """A runner fetches no more and gives its `running` jobs `grace` seconds."""

    name: ClassVar[str] = "oban.runner.stopping"
    running: int
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerStop(Event):
    """A runner stopped after `duration` seconds of work, having given `given_back` unfinished jobs back unspent."""

    name: ClassVar[str] = "oban.runner.stop"
    duration: float
    given_back: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRetry(Event):
    """A query of `part` failed for the `attempt`-th time in a row and is tried again in `retry_in` seconds."""

    name: ClassVar[str] = "oban.runner.retry"
    part: str
    attempt: int
    retry_in: float
    error: BaseException


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerRecover(Event):
    """A query of `part` works again after `attempts` failures that lasted `duration` seconds."""

    name: ClassVar[str] = "oban.runner.recover"
    part: str
    attempts: int
    duration: float


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
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


# Listening

E = TypeVar("E", bound=Event)
_AnyHandler = Callable[[Any], object]

_lock = threading.Lock()
_attached: list[_Attachment] = []
_by_type: Final[dict[type[Event], tuple[_Attachment, ...]]] = {}


@dataclass(slots=True, eq=False)
class _Attachment:
    handler: _AnyHandler
    events: tuple[type[Event], ...]
    raised: bool = False


def attach(handler: Callable[[E], object], *events: type[E]) -> Callable[[], None]:
    """Call `handler` with every event of these classes, or with every event where none is given, until detached.

    Returns a function that detaches it. A coroutine function is refused: events do not wait.
    """
    if callables.is_async(handler) or callables.yields(handler):
        how = "generator" if callables.yields(handler) else "coroutine"
        raise InvalidOption(
            f"the telemetry handler {failures.shown(handler)} is a {how} function, but events don't wait; "
            "attach a plain function, which may start a task of its own"
        )
    for event in cast("tuple[object, ...]", events):
        if not inspect.isclass(event) or not issubclass(event, Event):
            raise InvalidOption(f"{event!r} is not a class of events; give for example telemetry.JobStop")
    attachment = _Attachment(handler, events or (Event,))
    with _lock:
        _attached.append(attachment)
        _by_type.clear()

    def detach() -> None:
        with _lock:
            if attachment in _attached:
                _attached.remove(attachment)
                _by_type.clear()

    return detach


def listening(event: type[Event]) -> bool:
    """Say whether anyone would hear an event of this class, for places too hot to build one in vain."""
    attachments = _by_type.get(event)
    return bool(_resolve(event) if attachments is None else attachments)


def emit(event: Event) -> None:
    """Tell everyone who listens; nothing that a handler does reaches the caller, save KeyboardInterrupt."""
    attachments = _by_type.get(type(event))
    if attachments is None:
        attachments = _resolve(type(event))
    for attachment in attachments:
        try:
            attachment.handler(event)
        except KeyboardInterrupt:
            raise
        except BaseException:  # a handler that calls sys.exit() must not stop the runner either
            if not attachment.raised:
                attachment.raised = True
                logger.exception(
                    "the telemetry handler %s raised on %s; it stays attached, further errors of it are not logged",
                    failures.shown(attachment.handler),
                    event.name,
                )


def _resolve(event: type[Event]) -> tuple[_Attachment, ...]:
    # Under the lock, so that a handler attached meanwhile can't be hidden by an answer computed before it came.
    with _lock:
        found = tuple(attachment for attachment in _attached if issubclass(event, attachment.events))
        _by_type[event] = found
        return found
