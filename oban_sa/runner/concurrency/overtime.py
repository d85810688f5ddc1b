"""Code that goes on after it was interrupted, because it caught that or can't be reached: the log says so."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from oban_sa.describe.job_facts import job_facts
from oban_sa.errors import AttemptError
from oban_sa.models import Job
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe

logger = logging.getLogger("oban_sa.runner")

FIRST: Final = 10.0
"""Seconds after an interruption at which the log says that the code still runs; then twice as many each time."""

LONGEST: Final = 600.0
"""Seconds between two such lines at most."""


class Overtime:
    """Says in the log that an attempt still runs after its interruption.

    The code is interrupted once for each reason and not again and again, which would strike it while it cleans up.
    """

    __slots__ = ("_job", "_pause", "_since", "_timer", "_why")

    def __init__(self, job: Job) -> None:
        self._job = job
        self._why: str | None = None
        self._since = 0.0
        self._pause = FIRST
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, why: AttemptError) -> None:
        """The code has been interrupted; on the loop. Of several reasons the first is named."""
        if self._why is None:
            self._why = str(why)  # not the error, whose traceback will refer to this object
            self._since = clock.monotonic()
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._remind)

    def end(self) -> None:
        """Say no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _remind(self) -> None:
        job = self._job
        logger.warning(
            "job %s %s of queue %s still runs %s after it was interrupted (%s): its code waits inside C, cleans up, or "
            "caught the interruption and goes on; until it ends the job stays executing, and keeps its place",
            job.id,
            job.worker,
            job.queue,
            describe(round(clock.monotonic() - self._since)),
            self._why,
            extra=job_facts(job),
        )
        self._pause = min(self._pause * 2, LONGEST)
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._remind)


def tell(job: Job, ignored: AttemptError, state: str) -> None:
    """Say in the log that an attempt came to an answer although it had been interrupted."""
    logger.warning(
        "job %s %s of queue %s was interrupted (%s), caught that and went on; its answer counts, and the job is %s. "
        "Let AttemptError and CancelledError pass where errors are caught: raise them again",
        job.id,
        job.worker,
        job.queue,
        ignored,
        state,
        extra=job_facts(job),
    )
