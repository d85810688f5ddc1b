"""Background jobs for SQLAlchemy: a job is a row in your own PostgreSQL, written by your own session."""

from typing import TYPE_CHECKING

# First of all: what is imported below takes a while, in which the first process of a container hears no signal.
from oban_sa.service.early_signals import heard as _heard
from oban_sa.service.garbage import off as _off

# isort: split

from oban_sa.bulk.select import enqueue_select as enqueue_select
from oban_sa.client import Oban as Oban
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

    def __getattr__(name: str) -> object:
        # Most programs only enqueue, and need nothing of what runs jobs.
        if name == "Runner":
            from oban_sa.runner import Runner

            return Runner
        if name in ("Batch", "Workflow", "chain", "deps"):
            from oban_sa import flows

            return getattr(flows, name)
        if name == "signal":
            from oban_sa.outbox.signal import signal

            return signal
        if name in ("Signal", "progress", "sleep", "step", "wait_for"):
            from oban_sa import steps

            return getattr(steps, name)
        if name == "Runners":
            from oban_sa.runner.runners import Runners

            return Runners
        if name in ("Chunk", "ChunkResult"):
            from oban_sa.workers import chunk

            return chunk.Chunk if name == "Chunk" else chunk.ChunkResult
        if name in ("Queue", "Rate"):
            from oban_sa.jobs import limits

            return limits.Queue if name == "Queue" else limits.Rate
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
