"""Background jobs for SQLAlchemy: a job is a row in your own PostgreSQL, written by your own session."""

from typing import TYPE_CHECKING, Any

# First of all: what is imported below takes a while, in which the first process of a container hears no signal.
from oban_sa.first import heard as _heard

# isort: split

from oban_sa.client import Oban as Oban
from oban_sa.enqueueing import enqueue as enqueue
from oban_sa.enqueueing import enqueue_many as enqueue_many
from oban_sa.models import Job as Job
from oban_sa.models import schema_map as schema_map
from oban_sa.outcomes import Cancel as Cancel
from oban_sa.outcomes import Record as Record
from oban_sa.outcomes import Result as Result
from oban_sa.outcomes import Snooze as Snooze
from oban_sa.references import ref as ref
from oban_sa.selecting import enqueue_select as enqueue_select
from oban_sa.states import JobState as JobState
from oban_sa.workers import ForUpdate as ForUpdate
from oban_sa.workers import Worker as Worker
from oban_sa.workers import current_job as current_job
from oban_sa.workers import job as job
from oban_sa.workers import worker as worker

if TYPE_CHECKING:
    __version__: str
    from oban_sa.runner import Runner as Runner
    from oban_sa.runner.runners import Runners as Runners
else:

    def __getattr__(name: str) -> Any:
        # Most programs only enqueue, and need nothing of what runs jobs.
        if name == "Runner":
            from oban_sa.runner import Runner

            return Runner
        if name == "Runners":
            from oban_sa.runner.runners import Runners

            return Runners
        if name == "__version__":
            from importlib.metadata import version

            return version("oban_sa")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


del _heard

__all__ = [
    "Cancel",
    "ForUpdate",
    "Job",
    "JobState",
    "Oban",
    "Record",
    "Result",
    "Runner",
    "Runners",
    "Snooze",
    "Worker",
    "current_job",
    "enqueue",
    "enqueue_many",
    "enqueue_select",
    "job",
    "ref",
    "schema_map",
    "worker",
]
