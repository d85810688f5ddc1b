"""Ask the tables before code begins late: a cancel may have come while the event loop was blocked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Final

from oban_sa.describe.exceptions import describe
from oban_sa.runner.execution.attempt import Interrupted, Running

logger = logging.getLogger("oban_sa.runner")

AFTER: Final = 0.25
"""Seconds between a fetch and the beginning of a job after which the loop counts as having been blocked."""

ASK_WITHIN: Final = 5.0
"""Seconds in which the tables must have said whether a job is still wanted; then it begins all the same."""

_MOST: Final = 1000

Wanted = Callable[[Sequence[int]], Awaitable[dict[tuple[int, datetime], bool]]]
"""Returns which attempts at some jobs still have their jobs, and whether those were cancelled."""


class Stalled:
    """Keeps attempts from beginning whose jobs were cancelled, or given to others, since they were fetched.

    The notification lies unread on the connection that listens, and the code would begin before it is read. So the
    tables are asked, once for all attempts that wait.
    """

    def __init__(self, wanted: Wanted, waiting: Callable[[], Iterable[Running]]) -> None:
        """`waiting` are the attempts that were fetched and have not begun."""
        self._wanted = wanted
        self._waiting = waiting
        self._asked_about: set[Running] = set()
        self._asking: asyncio.Task[None] | None = None
        self.missed: set[int] = set()
        """Jobs that were cancelled while they did not run here."""
        self.doubted: set[int] = set()
        """Jobs that were cancelled while the answer to their fetch was on its way."""

    def miss(self, job_id: int) -> None:
        """Note that a job was cancelled which doesn't run here; it may be about to."""
        if len(self.missed) < _MOST:
            self.missed.add(job_id)

    def fetched(self, ids: Iterable[int]) -> None:
        """Note the jobs that a fetch brought; needed only where some were `missed`."""
        self.doubted |= self.missed.intersection(ids)
        self.missed.clear()

    async def asked(self, attempt: Running) -> None:
        """Return once the tables have been asked about an attempt, which is interrupted where its job is not wanted."""
        self.doubted.discard(attempt.attempt.job_id)
        if self._asking is None or attempt not in self._asked_about:
            self._asked_about = {each for each in self._waiting() if not each.begun}
            self._asked_about.add(attempt)
            self._asking = asyncio.create_task(self._ask(list(self._asked_about)))
        await asyncio.wait([self._asking])

    async def _ask(self, attempts: Sequence[Running]) -> None:
        try:
            async with asyncio.timeout(ASK_WITHIN):
                found = await self._wanted([each.attempt.job_id for each in attempts])
        except Exception as error:
            logger.debug("could not ask whether jobs are still wanted: %s", describe(error))
            return
        for each in attempts:
            attempted_at = each.attempt.attempted_at
            called_off = None if attempted_at is None else found.get((each.attempt.job_id, attempted_at))
            if called_off is not False and each.interrupted is None and not each.begun:
                each.interrupt(Interrupted.LOST if called_off is None else Interrupted.CANCELLED)
