"""Typed events that say what a runner does, and the functions that listen to them.

    detach = telemetry.attach(lambda event: print(event.worker, event.duration), telemetry.JobStop)

An event is a frozen value. Listening to a base class (`JobEvent`, `Event`) is listening to every event below it.
Spans of time are seconds. `docs/telemetry.md` lists every event.

Handlers are called where the event happens, often on the runner's event loop: a slow one delays jobs. A handler that
raises is logged once and harms nothing else.
"""

from __future__ import annotations

from oban_sa.telemetry.events import (
    Event,
    JobEvent,
    JobException,
    JobIdle,
    JobsEnqueued,
    JobStale,
    JobStart,
    JobStop,
    LeaderElection,
    LifelineRescue,
    NotifierConnected,
    NotifierDeaf,
    NotifierDisconnected,
    ProducerAck,
    ProducerFetch,
    ProducerLost,
    PrunerPrune,
    RunnerLag,
    RunnerLocked,
    RunnerRecover,
    RunnerRetry,
    RunnerStart,
    RunnerStop,
    RunnerStopping,
    SchedulerTick,
    SettlerSettle,
    Source,
    StagerStage,
    WorkerUnknown,
)
from oban_sa.telemetry.handlers import attach, emit, listening
from oban_sa.telemetry.limits import (
    RateAvailable,
    RateSpent,
    SequenceHalted,
    SequenceResumed,
    UniqueConflict,
)
from oban_sa.telemetry.steps import SignalReceived, StepChanged, StepStart, StepStop, StepsUnused, Suspended
from oban_sa.telemetry.web import WebAction

__all__ = [
    "Event",
    "JobEvent",
    "JobException",
    "JobIdle",
    "JobStale",
    "JobStart",
    "JobStop",
    "JobsEnqueued",
    "LeaderElection",
    "LifelineRescue",
    "NotifierConnected",
    "NotifierDeaf",
    "NotifierDisconnected",
    "ProducerAck",
    "ProducerFetch",
    "ProducerLost",
    "PrunerPrune",
    "RateAvailable",
    "RateSpent",
    "RunnerLag",
    "RunnerLocked",
    "RunnerRecover",
    "RunnerRetry",
    "RunnerStart",
    "RunnerStop",
    "RunnerStopping",
    "SchedulerTick",
    "SequenceHalted",
    "SequenceResumed",
    "SettlerSettle",
    "SignalReceived",
    "Source",
    "StagerStage",
    "StepChanged",
    "StepStart",
    "StepStop",
    "StepsUnused",
    "Suspended",
    "UniqueConflict",
    "WebAction",
    "WorkerUnknown",
    "attach",
    "emit",
    "listening",
]
