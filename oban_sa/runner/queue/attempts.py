"""The attempts of one producer: jobs that it has fetched and not begun, and those under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

import asyncpg

from oban_sa import telemetry
from oban_sa.jobs.durable import JOURNAL
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Attempt, given_back, judge
from oban_sa.runner.execution.attempt import Interrupted, Running
from oban_sa.runner.execution.executor import Executor
from oban_sa.runner.execution.home import mark
from oban_sa.runner.execution.outcome import Outcome, report_refused
from oban_sa.runner.queue.acker import Acker
from oban_sa.runner.queue.chunks import Gathering
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.stalled import AFTER, Stalled, Wanted
from oban_sa.runner.queue.turns import Turns
from oban_sa.schedule import clock

STAGGER = 32
"""Jobs that, fetched at once, are begun in two halves: fewer are done sooner than another statement is worth."""


class Attempts:
    """Begins what was fetched, each job in a task of its own, and hands every outcome to the acker.

    Rows that were fetched are begun when `begin` is called, or when `running` is read, so that no job is out of reach.
    Until then there may be a statement to send to the database first.
    """

    def __init__(
        self,
        queue: str,
        holder: Sequence[str],
        *,
        executor: Executor,
        acker: Acker,
        source: telemetry.Source,
        ended: Callable[[], None],
        wanted: Wanted,
        tables: Tables,
    ) -> None:
        """`ended` is told when an attempt has ended; `wanted` is asked before code begins late.

        `tables` are asked before code of a job of a sequence begins.
        """
        self.given_back = 0
        """Jobs that were given back, their attempt unspent."""
        self.refusing = False
        """Whether no more are begun."""
        self._queue = queue
        self._holder = tuple(holder)
        self._executor = executor
        self._acker = acker
        self._source = source
        self._ended = ended
        self._running: dict[int, Running] = {}
        self._chunks = Gathering(tables, attempt=self._attempt, refuses=lambda: self.refusing)
        self._fetched: deque[asyncpg.Record] = deque()
        self._fetched_at = 0.0
        self._stalled = Stalled(wanted, self._running.values)
        self.turns = Turns(
            tables,
            fetched=lambda: (row["id"] for row in self._fetched),
            runs=lambda each: self._running.get(each.attempt.job_id) is each,
        )

    @property
    def running(self) -> dict[int, Running]:
        """The attempts under way, by the ids of their jobs; also those that chunks hold."""
        self.begin()
        held = self._chunks.held
        return {**self._running, **held} if held else self._running

    @property
    def count(self) -> int:
        """How many jobs were fetched and have not ended, whether begun or not; a chunk counts as one."""
        return len(self._running) + len(self._fetched)

    def begun(self) -> list[int]:
        """The jobs under way, in order; may be called from any thread."""
        return sorted([*self._running, *self._chunks.held])

    def under_way(self) -> list[Attempt]:
        """The attempts whose jobs were begun; may be called from any thread."""
        return [running.attempt for running in [*self._running.values(), *self._chunks.held.values()]]

    def add(self, rows: list[asyncpg.Record]) -> None:
        """Take what was fetched, in the order in which it is to be begun."""
        self._fetched.extend(rows)
        self._fetched_at = clock.monotonic()
        if self._stalled.missed:
            self._stalled.fetched(row["id"] for row in rows)

    def miss(self, job_id: int) -> None:
        """Note that a job was cancelled which is not among those here; its fetch may be under way."""
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
            running = self._attempt(self._fetched.popleft(), moment)
            moment = running.attempt.attempted_at
            if self.refusing:
                self._give_back(running)  # the fetch was under way when it was told to stop
                continue
            job_id = running.attempt.job_id
            former = self._running.get(job_id) or self._chunks.held.pop(job_id, None)
            if former is not None and former.interrupted is None:
                # The job was rescued while it ran here, and this very node has fetched it again.
                former.interrupt(Interrupted.LOST)
            self._running[job_id] = running
            running.task = asyncio.create_task(self._work(running, self._fetched_at))

    def interrupt(self, why: Interrupted, ids: Iterable[int] | None = None) -> int:
        """Interrupt all that is running, or some jobs of it; returns how many."""
        running = self.running
        chosen = list(running.values()) if ids is None else [running[job_id] for job_id in ids if job_id in running]
        for each in chosen:
            each.interrupt(why)
        return len(chosen)

    def lose(self, running: Running) -> bool:
        """Interrupt an attempt that has lost its job; whether it was still under way, and not interrupted before."""
        # Once only: code that cleans up is not to be interrupted in that.
        if running.interrupted is not None or self.running.get(running.attempt.job_id) is not running:
            return False
        running.interrupt(Interrupted.LOST)
        return True

    def give_back_all(self) -> None:
        """Give back all that is running, also what can't be stopped: this process is about to end."""
        for running in self.running.values():
            self._give_back(running)
        self._running.clear()
        self._chunks.held.clear()

    def give_back_unheard(self, rows: Iterable[asyncpg.Record]) -> None:
        """Give back jobs that were fetched by a statement whose answer was lost, so that they were never begun.

        Each gets an outcome like any other, which passes the fence and obeys a cancel that came meanwhile.
        """
        for row in rows:
            self._give_back(self._attempt(row))

    def _give_back(self, running: Running) -> None:
        self.given_back += 1
        self._acker.add(Outcome(running, given_back(running.attempt, mark(running))))
        self._ended()

    def _attempt(self, row: asyncpg.Record, former: datetime | None = None) -> Running:
        # The job itself is made in the task that runs it: a fetch may bring many, each of a dozen objects.
        moment: datetime | None = row["attempted_at"]
        if moment is not None and moment.tzinfo is not UTC:  # the engine has a codec of its own
            moment = moment.replace(tzinfo=UTC)
        # One object for all that were fetched at once, so that their outcomes need not say it for each.
        moment = former if moment == former else moment
        attempt = Attempt(row["id"], row["attempt"], row["max_attempts"], None, self._holder, moment)
        return Running(attempt, row=row, queue=self._queue)

    async def _work(self, running: Running, fetched_at: float) -> None:
        job_id = running.attempt.job_id
        if clock.monotonic() - fetched_at > AFTER or job_id in self._stalled.doubted:
            await self._stalled.asked(running)
        if running.names_sequence and not await self.turns.come(running):
            running.let_go()
            if self._running.get(job_id) is running:
                del self._running[job_id]
            self._ended()
            return
        try:
            outcome = await self._executor.attempt(running, self._chunks)
        except BaseException as error:
            # Nothing is expected to come through here; were it to, the job must still end.
            outcome = Outcome(running, judge(running.attempt, error))
            if running.chunk is not None:
                running.chunk.fail(error)
        if (chunk := running.chunk) is not None:
            for each in self._chunks.end(chunk, running):
                each.let_go()
                self._end(each, chunk.outcomes.get(each.attempt.job_id))
        running.let_go()
        if self.turns.running:
            self.turns.end(job_id)
        if self._running.get(job_id) is not running:
            # Given back, or fetched again, meanwhile: this answer comes too late.
            if outcome is not None:
                report_refused(self._source, outcome)
            return
        del self._running[job_id]
        self._end(running, outcome)
        self._ended()

    def _end(self, running: Running, outcome: Outcome | None) -> None:
        if outcome is not None:
            # With other meta it's one of a worker that this program does not know, and no work that was cut short.
            meta = outcome.verdict.meta
            self.given_back += outcome.verdict.state is JobState.AVAILABLE and (meta is None or JOURNAL in meta)
            self._acker.add(outcome)
