"""Background jobs for SQLAlchemy: a job is a row in your own PostgreSQL, written by your own session."""

from typing import TYPE_CHECKING

# First of all: what is imported below takes a while, in which the first process of a container hears no signal.
from oban_sa.service.early_signals import heard as _heard
from oban_sa.service.garbage import off as _off

# isort: split

from oban_sa.jobs.answers import Cancel as Cancel
from oban_sa.jobs.answers import Record as Record
from oban_sa.jobs.answers import Result as Result
from oban_sa.jobs.answers import Snooze as Snooze
from oban_sa.jobs.references import ref as ref
from oban_sa.jobs.states import JobState as JobState
from oban_sa.jobs.unique import Conflict as Conflict
from oban_sa.jobs.unique import Unique as Unique
from oban_sa.models import Job as Job
from oban_sa.models import schema_map as schema_map
from oban_sa.outbox.enqueue import enqueue as enqueue
from oban_sa.outbox.enqueue import enqueue_many as enqueue_many
from oban_sa.workers import ForUpdate as ForUpdate
from oban_sa.workers import Worker as Worker
from oban_sa.workers import current_job as current_job
from oban_sa.workers import job as job
from oban_sa.workers import worker as worker

if TYPE_CHECKING:
    __version__: str
    from oban_sa.bulk.select import enqueue_select as enqueue_select
    from oban_sa.client.oban import Oban as Oban
    from oban_sa.flows import Batch as Batch
    from oban_sa.flows import Workflow as Workflow
    from oban_sa.flows import chain as chain
    from oban_sa.flows import deps as deps
    from oban_sa.jobs.limits import Queue as Queue
    from oban_sa.jobs.limits import Rate as Rate
    from oban_sa.outbox.signal import signal as signal
    from oban_sa.runner import Runner as Runner
    from oban_sa.runner.runners import Runners as Runners
    from oban_sa.steps import Signal as Signal
    from oban_sa.steps import progress as progress
    from oban_sa.steps import sleep as sleep
    from oban_sa.steps import step as step
    from oban_sa.steps import wait_for as wait_for
    from oban_sa.workers.chunk import Chunk as Chunk
    from oban_sa.workers.chunk import ChunkResult as ChunkResult
else:
    # A program that only enqueues needs nothing of what runs jobs, and a runner nothing of what controls them.
    _WHEN_USED = {
        "Batch": "oban_sa.flows",
        "Chunk": "oban_sa.workers.chunk",
        "ChunkResult": "oban_sa.workers.chunk",
        "Oban": "oban_sa.client.oban",
        "Queue": "oban_sa.jobs.limits",
        "Rate": "oban_sa.jobs.limits",
        "Runner": "oban_sa.runner",
        "Runners": "oban_sa.runner.runners",
        "Signal": "oban_sa.steps",
        "Workflow": "oban_sa.flows",
        "chain": "oban_sa.flows",
        "deps": "oban_sa.flows",
        "enqueue_select": "oban_sa.bulk.select",
        "progress": "oban_sa.steps",
        "signal": "oban_sa.outbox.signal",
        "sleep": "oban_sa.steps",
        "step": "oban_sa.steps",
        "wait_for": "oban_sa.steps",
    }

    def __getattr__(name: str) -> object:
        if (module := _WHEN_USED.get(name)) is not None:
            from importlib import import_module

            return getattr(import_module(module), name)
        if name == "__version__":
            from importlib.metadata import version

            return version("oban_sa")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


del _heard, _off

__all__ = [
    "Batch",
    "Cancel",
    "Chunk",
    "ChunkResult",
    "Conflict",
    "ForUpdate",
    "Job",
    "JobState",
    "Oban",
    "Queue",
    "Rate",
    "Record",
    "Result",
    "Runner",
    "Runners",
    "Signal",
    "Snooze",
    "Unique",
    "Worker",
    "Workflow",
    "chain",
    "current_job",
    "deps",
    "enqueue",
    "enqueue_many",
    "enqueue_select",
    "job",
    "progress",
    "ref",
    "schema_map",
    "signal",
    "sleep",
    "step",
    "wait_for",
    "worker",
]
