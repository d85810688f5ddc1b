"""Ask for each job of a sequence, before its code begins, whether it is its turn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from oban_sa.describe.exceptions import describe
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.queue.exchange import Tables

logger = logging.getLogger("oban_sa.runner")

AGAIN_AFTER: Final = 0.05
"""Seconds until the tables are asked again, where they did not answer, or another transaction held the job's row."""


class Turns:
    """The jobs of sequences that one producer has fetched: those that wait for an answer, and those that run.

    Those that are fetched at the same time are asked about by one statement; see `oban_sa.sql.sequences`. Where the
    database is away they wait: code that begins without an answer might run beside the job before it.
    """

    def __init__(
        self, tables: Tables, *, fetched: Callable[[], Iterable[int]], runs: Callable[[Running], bool]
    ) -> None:
        """`fetched` are the jobs that have not begun; `runs` says whether an attempt is still this producer's."""
        self.ended: dict[int, str] = {}
        """The keys of jobs that have ended, or were parked, and whose sequences are to go on."""
        self.running: dict[int, str] = {}
        """The keys of the jobs of sequences that run here."""
        self._tables = tables
        self._fetched = fetched
        self._runs = runs
        self._waiting: dict[int, Running] = {}
        self._answers: dict[int, bool] = {}
        self._asking: asyncio.Task[None] | None = None

    async def come(self, running: Running) -> bool:
        """Return once it is the turn of an attempt's job; False where it was parked, so that its code must not begin.

        True as well where the attempt was interrupted, whose code doesn't begin either.
        """
        job_id = running.attempt.job_id
        self._waiting[job_id] = running
        try:
            while (answer := self._answers.pop(job_id, None)) is None:
                if running.interrupted is not None or not self._runs(running):
                    return running.interrupted is not None
                if self._asking is None or self._asking.done():
                    self._asking = asyncio.create_task(self._ask())
                await asyncio.wait([self._asking])
            return answer
        finally:
            if self._waiting.get(job_id) is running:
                del self._waiting[job_id]

    def end(self, job_id: int) -> None:
        """Note that an attempt has ended: once its outcome is written, the next job of its sequence may run."""
        if (key := self.running.pop(job_id, None)) is not None:
            self.ended[job_id] = key

    async def release(self, unwritten: Iterable[int]) -> int:
        """Let the sequences go on whose jobs have ended, but for those with an `unwritten` outcome: how many did."""
        held = set(unwritten)
        written = {job_id: key for job_id, key in self.ended.items() if job_id not in held}
        if not written:
            return 0
        count = await self._tables.release(sorted(set(written.values())))
        for job_id in written:
            self.ended.pop(job_id, None)
        return count

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # for the others that were fetched at the same time
        asked = dict(self._waiting)
        try:
            rows = await self._tables.turn(list(asked), unasked=[*asked, *self._fetched()])
        except Exception as error:
            logger.debug("could not ask whether it is the turn of jobs of sequences: %s", describe(error))
            await asyncio.sleep(AGAIN_AFTER)
            return
        found = {row["id"]: row for row in rows}
        for job_id, running in asked.items():
            if self._waiting.get(job_id) is not running:
                continue
            if (row := found.get(job_id)) is None:
                # No longer this producer's: it was cancelled, deleted or rescued meanwhile.
                self._answers[job_id] = False
            elif row["turn"] is not None:
                self._answers[job_id] = row["turn"]
                (self.running if row["turn"] else self.ended)[job_id] = row["key"]
        if not self._answers:
            await asyncio.sleep(AGAIN_AFTER)
