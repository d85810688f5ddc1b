"""The attempts of one producer: what it has fetched, what is under way, and what has ended."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import asyncpg

from oban_sa import clock, telemetry
from oban_sa.failures import describe
from oban_sa.models import Job
from oban_sa.runner.acker import Acker, Outcome, report_stale
from oban_sa.runner.executor import Executor, Interrupted, Running, about
from oban_sa.runner.rows import job_of, unread
from oban_sa.runner.stalled import AFTER, Stalled, Wanted
from oban_sa.states import JobState
from oban_sa.verdicts import Attempt, given_back, judge

logger = logging.getLogger("oban_sa.runner")

STAGGER = 32
"""Jobs that, fetched at once, are begun in two halves: fewer are done sooner than another statement is worth."""


class Attempts:
    """Begins what was fetched, each job in a task of its own, and hands every outcome to the acker.

    What is fetched is begun as soon as anybody asks for what is running, so no job is ever out of reach; until then its
    row is not even read, for there may be something to send to the database first.
    """

    def __init__(
        self,
        queue: str,
        holder: list[str],
        *,
        executor: Executor,
        acker: Acker,
        source: telemetry.Source,
        ended: Callable[[], None],
        wanted: Wanted,
    ) -> None:
        """`ended` is told when an attempt has ended; `wanted` is asked before code begins late."""
        self.given_back = 0
        """Jobs that were given back, their attempt unspent."""
        self.refusing = False
        """Whether no more are begun."""
        self._queue = queue
        self._holder = holder
        self._executor = executor
        self._acker = acker
        self._source = source
        self._ended = ended
        self._running: dict[int, Running] = {}
        self._fetched: deque[asyncpg.Record] = deque()
        self._fetched_at = 0.0
        self._stalled = Stalled(wanted, self._running.values)

    @property
    def running(self) -> dict[int, Running]:
        """The attempts under way, by the ids of their jobs."""
        self.begin()
        return self._running

    @property
    def count(self) -> int:
        """How many jobs are held here, whether begun or not."""
        return len(self._running) + len(self._fetched)

    def begun(self) -> list[int]:
        """The jobs under way, in order; may be called from any thread."""
        return sorted(self._running)

    def under_way(self) -> list[Attempt]:
        """The attempts whose jobs were begun; may be called from any thread."""
        return [running.attempt for running in list(self._running.values())]

    def add(self, rows: list[asyncpg.Record]) -> None:
        """Take what was fetched, in the order in which it is to be begun."""
        self._fetched.extend(rows)
        self._fetched_at = clock.monotonic()
        self._stalled.fetched(row["id"] for row in rows)

    def miss(self, job_id: int) -> None:
        """Take note that a job was called off which is not among those here; its fetch may be under way."""
        self._stalled.miss(job_id)

    def refuse(self) -> None:
        """Begin no more: what is fetched from now on, or was and has not begun, is given back."""
        self.refusing = True

    def begin_soon(self) -> None:
        """Begin what was fetched once the caller awaits something."""
        if self._fetched:
            asyncio.get_running_loop().call_soon(self.begin)

    async def begin_staggered(self) -> None:
        """Begin what was fetched; of many jobs half is begun now, and the rest where none of them ends at once.

        Where they do, their outcomes can be written, and others be fetched, while the second half runs; and from then
        on the database and this process work at the same time and not in turns.
        """
        if len(self._fetched) >= STAGGER:
            self.begin(len(self._fetched) // 2)
            await asyncio.sleep(0)
            if len(self._acker):
                return
        self.begin()

    def begin(self, count: int | None = None) -> None:
        """Begin what was fetched, or the first few of it."""
        moment: datetime | None = None
        for _ in range(len(self._fetched) if count is None else count):
            row = self._fetched.popleft()
            job_id: int = row["id"]
            try:
                job = job_of(row, self._queue, self._holder)
            except Exception as error:
                # A row that nobody can read fails by itself, and holds up no other.
                job = unread(row, self._queue, self._holder)
                self._acker.add(Outcome(job, judge(about(job), error)))
                facts = {"job_id": job_id, "worker": job.worker, "queue": self._queue, "attempt": job.attempt}
                logger.error("job %d of queue %s can't be read: %s", job_id, self._queue, describe(error), extra=facts)
                self._ended()
                continue
            if self.refusing:
                self._give_back(job, about(job))  # the fetch was under way when it was told to stop
                continue
            if (former := self._running.get(job_id)) is not None and former.interrupted is None:
                # Somebody rescued the job while it ran here, and this very node has fetched it again.
                former.interrupt(Interrupted.LOST)
            # One object for all that were fetched at once, so that their outcomes need not say it for each.
            loaded: dict[str, Any] = job.__dict__  # pyright: ignore[reportAssignmentType]
            moment = loaded["attempted_at"] = moment if loaded["attempted_at"] == moment else loaded["attempted_at"]
            running = self._running[job_id] = Running(job)
            running.task = asyncio.create_task(self._work(job_id, running, self._fetched_at))

    def interrupt(self, why: Interrupted, ids: Iterable[int] | None = None) -> int:
        """Interrupt all that is running, or some jobs of it; returns how many."""
        running = self.running
        chosen = list(running.values()) if ids is None else [running[job_id] for job_id in ids if job_id in running]
        for each in chosen:
            each.interrupt(why)
        return len(chosen)

    def lose(self, running: Running) -> bool:
        """Interrupt an attempt whose job is another's by now; whether it was still under way, and not interrupted."""
        # Once only: code that cleans up is not to be interrupted in that.
        if running.interrupted is not None or self.running.get(running.attempt.job_id) is not running:
            return False
        running.interrupt(Interrupted.LOST)
        return True

    def give_back_all(self) -> None:
        """Give back all that is running, also what can't be stopped: this process is about to end."""
        for running in self.running.values():
            self._give_back(running.job, running.attempt)
        self._running.clear()

    def give_back_unheard(self, rows: Iterable[asyncpg.Record]) -> None:
        """Give back what is held by the tables and was never begun, since the answer to its fetch was lost.

        It is done by an outcome like any other, which passes the fence and obeys a cancel that came meanwhile.
        """
        for row in rows:
            try:
                job = job_of(row, self._queue, self._holder)
            except Exception:
                job = unread(row, self._queue, self._holder)
            self._give_back(job, about(job))

    def _give_back(self, job: Job, attempt: Attempt) -> None:
        self.given_back += 1
        self._acker.add(Outcome(job, given_back(attempt)))
        self._ended()

    async def _work(self, job_id: int, running: Running, fetched_at: float) -> None:
        if clock.monotonic() - fetched_at > AFTER or job_id in self._stalled.doubted:
            await self._stalled.asked(running)
        try:
            outcome = await self._executor.attempt(running)
        except BaseException as error:
            # Nothing is expected to come through here; were it to, the job must still end.
            outcome = Outcome(running.job, judge(running.attempt, error))
        if self._running.get(job_id) is not running:
            # Given back, or fetched again, meanwhile: this answer comes too late.
            if outcome is not None:
                report_stale(self._source, running.job, outcome.verdict.state)
            return
        del self._running[job_id]
        if outcome is not None:
            # With meta it's one of a worker that this program does not know, and no work that was cut short.
            self.given_back += outcome.verdict.state is JobState.AVAILABLE and outcome.verdict.meta is None
            self._acker.add(outcome)
        self._ended()
