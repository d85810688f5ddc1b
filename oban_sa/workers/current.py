"""The job that the code below is working on."""

from __future__ import annotations

from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Protocol

from oban_sa.errors import JobNotFound

if TYPE_CHECKING:
    from oban_sa.models import Job

CURRENT: ContextVar[Job] = ContextVar("oban_sa.current_job")
"""The job of the code that runs in a context."""


class Attempting(Protocol):
    """The attempt at a job that runs in a context."""

    @property
    def journal(self) -> object:
        """What its durable steps are written into: an `oban_sa.steps.journal.Journal`."""
        ...

    @property
    def is_of_many(self) -> bool:
        """Whether its job is one of many that the code is called with, so that there is no journal."""
        ...


ATTEMPT: ContextVar[Attempting] = ContextVar("oban_sa.attempt")
"""The attempt whose code runs in a context."""


def current_job() -> Job:
    """Return the job that is running here: in its worker, in tasks started there, in its thread or its process.

    A thread started by hand doesn't know it, unless the code runs it in `contextvars.copy_context()`, as
    `asyncio.to_thread` does. Raises `JobNotFound` outside of a worker.
    """
    try:
        return CURRENT.get()
    except LookupError:
        raise JobNotFound("no job is running here; current_job() answers only below the code of a worker") from None


def job_of(context: Context) -> Job | None:
    """Return the job that is running in a context, or None."""
    return context.get(CURRENT)


class running:  # noqa: N801 - used like the function that contextlib would make of a generator, which costs more
    """Make `job` the current one inside the block."""

    __slots__ = ("_job", "_token")

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> Job:
        """Begin; the block ends in the same context."""
        self._token = CURRENT.set(self._job)
        return self._job

    def __exit__(self, *_: object) -> None:
        """End."""
        CURRENT.reset(self._token)


class attempting:  # noqa: N801 - as `running`; contextlib's would also set the traceback of an error, which may refuse it
    """Have the code inside the block be that of an attempt."""

    __slots__ = ("_attempt", "_token")

    def __init__(self, attempt: Attempting) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        """Begin; the block ends in the same context."""
        self._token = ATTEMPT.set(self._attempt)

    def __exit__(self, *_: object) -> None:
        """End."""
        ATTEMPT.reset(self._token)
