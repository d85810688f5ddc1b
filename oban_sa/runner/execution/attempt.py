"""An attempt under way: its job, made of the fetched row, and how it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from oban_sa.errors import AttemptCancelled, AttemptError, AttemptLost, AttemptTimedOut, InvalidArguments
from oban_sa.jobs.hidden import hides
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Attempt, Verdict
from oban_sa.models import Job
from oban_sa.models.types import errors_from_database, labels_from_database
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.runner.sessions.attempt_session import AttemptSession
from oban_sa.sql.fetch import FETCHED, MOMENTS
from oban_sa.wire import json_text
from oban_sa.workers.definition import Definition

if TYPE_CHECKING:
    from oban_sa.runner.execution.chunk import ChunkRun


class Interrupted(Enum):
    """Why a runner cut an attempt short."""

    CANCELLED = auto()
    """The job was asked to be cancelled."""
    SHUTDOWN = auto()
    """The runner stops and its grace period is over."""
    LOST = auto()
    """The job was given to another attempt while this one ran."""


SEQUENCE_NAMED: Final = '"sequence"'
"""What stands in the meta of each job of a sequence, as JSON text; and in that of few others."""


class Running:
    """An attempt under way; `attempt` says which, also where the code changes the job that it is given."""

    __slots__ = (
        "_given",
        "_job",
        "_queue",
        "_row",
        "asked",
        "attempt",
        "begun",
        "chunk",
        "definition",
        "durable",
        "home",
        "interrupted",
        "later_version",
        "session",
        "task",
        "time_limit",
        "unreadable",
    )

    def __init__(
        self, attempt: Attempt, *, job: Job | None = None, row: asyncpg.Record | None = None, queue: str = ""
    ) -> None:
        """Without a `job` it is made of the `row` that was fetched from a `queue`, when it is first asked for."""
        self.attempt = attempt
        self._job = job
        self._given: dict[str, object] | None = None
        """What a job had that was not made of a row."""
        self._row = row
        self._queue = queue
        self.unreadable: Exception | None = None
        """Why the row can't be read; then args, meta and errors of the job are empty."""
        self.task: asyncio.Task[object] | None = None
        self.interrupted: Interrupted | None = None
        self.begun = False
        self.asked = False
        """Whether the job was asked to be cancelled."""
        self.definition: Definition | None = None
        """The job's worker, once it is found."""
        self.later_version: int | None = None
        """The version of the job's args, where it is later than the worker's."""
        self.time_limit: TimeLimit | None = None
        """None while the code runs on the loop without a limit, and was not interrupted."""
        self.session: AttemptSession | None = None
        self.durable: object = None
        """Its journal, once its code has asked for it."""
        self.home: Callable[[Running], object] | None = None
        """Makes the journal."""
        self.chunk: ChunkRun | None = None
        """The chunk that it is in, whose code is told of a cancellation and never interrupted by one."""

    @classmethod
    def of(cls, job: Job) -> Running:
        """Return an attempt at a job that was fetched otherwise."""
        made = cls(about(job), job=job)
        made._given = dict(vars(job))
        return made

    @property
    def job(self) -> Job:
        """The job that the code is given."""
        if self._job is None:
            self._job = self._read(self._row)
        return self._job

    @property
    def journal(self) -> object:
        """What its durable steps are written into: an `oban_sa.steps.journal.Journal`."""
        if self.durable is None:
            if self.home is None:
                raise AttemptLost("the attempt has ended")
            self.durable = self.home(self)
        return self.durable

    @property
    def is_of_many(self) -> bool:
        """Whether its job is one of many that the code is called with, so that there is no journal."""
        return self.chunk is not None

    @property
    def names_sequence(self) -> bool:
        """Whether the job may be one of a sequence, by the text of its meta as it was fetched."""
        return self._row is not None and (meta := self._row["meta"]) is not None and SEQUENCE_NAMED in meta

    def _read(self, row: Any) -> Job:
        try:
            job = job_of(row, self._queue, self.attempt)
        except Exception as error:
            self.unreadable = error
            return unread(row, self._queue, self.attempt)
        if meta := job.__dict__["meta"]:
            job_id, attempt, max_attempts, _, holder, attempted_at = self.attempt
            self.attempt = Attempt(job_id, attempt, max_attempts, meta, holder, attempted_at)  # faster than _replace
        return job

    def recall(self) -> None:
        """Give the job again what a session of its code has expired: it is still told of, and can't be loaded here."""
        loaded = vars(self.job)
        if not loaded["_sa_instance_state"].expired_attributes:
            return
        known = self._given if self._row is None else vars(job_of(self._row, self._queue, self.attempt))
        for name, value in (known or {}).items():
            loaded.setdefault(name, value)
        if (self.attempt.meta or {}).get("encrypted") is True:
            self.unseal()

    def unseal(self) -> None:
        """Decrypt the job's args; raises `KeyMissing` where no key of this process does."""
        from oban_sa.jobs import encryption  # where nothing is encrypted, nothing of it is loaded

        loaded = vars(self.job)
        if encryption.is_sealed(loaded["args"]):
            loaded["args"] = encryption.unseal(loaded["worker"], loaded["args"])

    def hide(self, error: BaseException) -> None:
        """Take what is not to be seen of the job's args out of the messages of what its code raised."""
        if self.chunk is not None:
            self.chunk.hide(error)
        elif self.hides:
            from oban_sa.jobs import redaction

            redaction.error(error, vars(self.job)["args"], self.attempt.meta)

    def hidden(self, verdict: Verdict) -> Verdict:
        """Return the verdict without what is not to be seen in the text of its error."""
        if verdict.error is None:
            return verdict
        if self.chunk is not None:
            return verdict._replace(error=self.chunk.hidden(verdict.error))
        if not self.hides:
            return verdict
        from oban_sa.jobs import redaction

        return verdict._replace(error=redaction.text(verdict.error, vars(self.job)["args"], self.attempt.meta))

    @property
    def hides(self) -> bool:
        """Whether something of the job's args is not to be seen."""
        return hides(self.attempt.meta)

    def let_go(self) -> None:
        """Keep only what says which attempt it was: its outcome may have to wait for the database, and many of them.

        Asked for after that, the job is made anew.
        """
        if self._row is not None:
            self._job = None
        self.task = self.definition = self.session = self.time_limit = self.home = None

    def interrupt(self, why: Interrupted) -> None:
        """Ask the code to stop, and cancel it at its next await; the first reason given stays."""
        self.job.request_cancel()
        self.asked = self.asked or why is Interrupted.CANCELLED
        if why is Interrupted.CANCELLED and (
            self.chunk is not None or (self.definition is not None and self.definition.options.cancel == "ask")
        ):
            return  # the code is told, and not interrupted
        if self.interrupted is None:
            self.interrupted = why
        # A task that is cancelled before it begins never runs at all, and the job's outcome would never be written.
        if self.task is not None and self.begun:
            self.task.cancel()
            if why is Interrupted.SHUTDOWN:
                self.limited().close()
            else:
                self.limited().interrupted(AttemptCancelled(_LOST if why is Interrupted.LOST else None))

    def limited(self) -> TimeLimit:
        """Return the time limit of the attempt, or make one that has no end and remembers what interrupted the code."""
        if self.time_limit is None:
            self.time_limit = TimeLimit(self.job)
        return self.time_limit

    def uncancel(self) -> None:
        """Let the task go on after it was cancelled by `interrupt`: the outcome is still to be written."""
        task = asyncio.current_task()
        while task is not None and self.interrupted is not None and task.cancelling():
            task.uncancel()

    def ignored(self) -> AttemptError | None:
        """The interruption that the code caught and went on after, now that it has come to an answer."""
        ignored = None if self.time_limit is None else self.time_limit.ignored
        if isinstance(ignored, AttemptTimedOut):
            return ignored
        # An answer that is given although the runner stops is as good as any.
        if self.interrupted is not Interrupted.CANCELLED or self.definition is None:
            return None
        return AttemptCancelled() if self.definition.executor == "loop" else ignored


_LOST = "the job was given to another attempt while this one ran"


def about(job: Job) -> Attempt:
    """The attempt that a fetched job stands for."""
    # Past the instrumentation, which would look at each attribute as if it might have to be loaded.
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    return Attempt(
        loaded["id"],
        loaded["attempt"],
        loaded["max_attempts"],
        loaded["meta"],
        tuple(loaded["attempted_by"]),
        loaded["attempted_at"],
    )


def waited(job: Job) -> float:
    """Return the seconds between the moment a fetched job was due and the moment it was fetched."""
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    try:
        attempted_at, scheduled_at = loaded["attempted_at"], loaded["scheduled_at"]
    except KeyError:  # a session has expired it
        attempted_at, scheduled_at = job.attempted_at, job.scheduled_at
    return 0.0 if attempted_at is None else max((attempted_at - scheduled_at).total_seconds(), 0.0)


def job_of(row: asyncpg.Record, queue: str, attempt: Attempt) -> Job:
    """Make the job of a fetched row; raises what keeps it from being read, such as args that are no object.

    It is as from `Job.from_row`, which reads rows of any statement and of any driver and takes longer for that.
    """
    job: Job = _new_instance()
    loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
    loaded["_sa_instance_state"].key = (Job, (attempt.job_id,), None)
    loaded.update(zip(FETCHED, row, strict=False))
    args, meta, errors, tags = loaded["args"], loaded["meta"], loaded["errors"], loaded["tags"]
    # Most have nothing but args, and many not even those.
    loaded["args"] = {} if args == "{}" else json_text.read(args)
    loaded["meta"] = {} if meta == "{}" or meta is None else json_text.read(meta)
    loaded["errors"] = [] if errors == "[]" or errors is None else errors_from_database(errors)
    loaded["tags"] = labels_from_database(tags) if tags else []
    if not isinstance(loaded["args"], dict):
        raise InvalidArguments(f"args of a job are a JSON object; this one's are {args:.100}")
    if not isinstance(loaded["meta"], dict):
        loaded["meta"] = {}
    loaded["state"] = _EXECUTING
    loaded["queue"] = queue
    loaded["attempted_by"] = list(attempt.holder)
    if loaded["inserted_at"].tzinfo is not UTC:  # the engine has a codec of its own
        for name in MOMENTS:
            if (moment := loaded[name]) is not None:
                loaded[name] = moment.replace(tzinfo=UTC)
    loaded["attempted_at"] = attempt.attempted_at
    return job


def unread(row: asyncpg.Record, queue: str, attempt: Attempt) -> Job:
    """Make a job of a row whose args, meta or errors can't be read; they are empty."""
    known = {**dict(row), "state": "executing", "queue": queue, "attempted_by": list(attempt.holder)}
    return Job.from_row({**known, "args": {}, "meta": {}, "errors": []})


_new_instance: Final[Any] = Job.__mapper__.class_manager.new_instance

_EXECUTING: Final = JobState.EXECUTING  # Python 3.11 takes longer to find a member of an enum
