"""What a runner tells of durable steps, and of jobs that wait."""

from __future__ import annotations

from typing import ClassVar

from oban_sa.telemetry.events import JobEvent, event


@event
class StepStart(JobEvent):
    """A durable step begins, or is `replayed`: its result comes from the journal."""

    name: ClassVar[str] = "oban.step.start"
    step: str
    replayed: bool = False


@event
class StepStop(JobEvent):
    """A durable step has run, and its result is in the journal."""

    name: ClassVar[str] = "oban.step.stop"
    step: str
    duration: float


@event
class Suspended(JobEvent):
    """An attempt has ended because its code waits: for `delay` seconds, for a `signal`, or for both."""

    name: ClassVar[str] = "oban.job.suspended"
    signal: str | None
    delay: float | None


@event
class SignalReceived(JobEvent):
    """A job has taken a signal that it waited for; or the wait has `timed_out`."""

    name: ClassVar[str] = "oban.signal.received"
    signal: str
    timed_out: bool = False


@event
class StepChanged(JobEvent):
    """The journal has the result of another function under the name of a step; it is used all the same."""

    name: ClassVar[str] = "oban.step.changed"
    step: str
    recorded: str
    called: str


@event
class StepsUnused(JobEvent):
    """A job is completed by code that has not asked for these `steps` of its journal: most likely it was changed."""

    name: ClassVar[str] = "oban.steps.unused"
    steps: tuple[str, ...]
