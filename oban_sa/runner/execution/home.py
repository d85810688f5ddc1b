"""Where the journals of attempts are; nothing of it is loaded before a job takes a step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from oban_sa import telemetry
from oban_sa.errors import AttemptLost
from oban_sa.jobs.durable import JOURNAL, WAIT_UNTIL, WAITS_FOR, resumed
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import JSONDict
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.concurrency.threads import Threads
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running

if TYPE_CHECKING:
    from oban_sa.runner.execution.journals import Journals
    from oban_sa.steps.journal import Journal, Tables

T = TypeVar("T")

Wait = Callable[[Awaitable[object]], object]
"""Has something done on the loop, for a thread that waits for it."""


class Home(Protocol):
    """Makes the tables of attempts' journals."""

    def tables(self, running: Running, wait: Wait) -> Tables:
        """Return the tables of one attempt."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...


class InDatabase:
    """The home of a runner's attempts: the tables of its database."""

    def __init__(self, database: Database, young: Written) -> None:
        """`young` knows which attempts were kept young."""
        self._database = database
        self._young = young
        self._journals: Journals | None = None

    def tables(self, running: Running, wait: Wait) -> Tables:
        """Return the tables of one attempt."""
        from oban_sa.runner.execution.journals import AttemptTables, Journals

        if self._journals is None:
            self._journals = Journals(self._database, self._young)
        return AttemptTables(self._journals, running.attempt, wait)

    async def close(self) -> None:
        """Close the connection, where one was opened."""
        if self._journals is not None:
            await self._journals.close()


def journal_of(home: Home, running: Running, threads: Threads, source: telemetry.Source) -> Journal:
    """Return the journal of an attempt."""
    from oban_sa.steps.journal import Journal

    def wait(awaitable: Awaitable[object]) -> object:
        if (call := threads.current()) is not None:
            return call.on_loop(awaitable)
        # A thread that the code has started itself.
        if (task := running.task) is None:
            raise AttemptLost("the attempt has ended")
        waited = asyncio.run_coroutine_threadsafe(cast("Coroutine[object, object, object]", awaitable), task.get_loop())
        return waited.result()

    attempt, meta = running.attempt, running.job.meta
    marked = JOURNAL in meta
    # An attempt that is given back, as by a shutdown or a snooze, marks its job where it has journalled something.
    fresh = attempt.attempt == 1 and not marked
    loop = None if running.task is None else running.task.get_loop()
    return Journal(home.tables(running, wait), running.job, source=source, marked=marked, fresh=fresh, loop=loop)


_GOES_ON = frozenset({JobState.RETRYABLE, JobState.AVAILABLE, JobState.SCHEDULED, JobState.SUSPENDED})


def remembering(running: Running, verdict: Verdict, source: telemetry.Source) -> Verdict:
    """Return the verdict on an attempt with a journal: the next one reads it; and the job waits for nothing any more.

    What a suspension says of waiting stays, and an event tells of it.
    """
    meta: JSONDict = {**(resumed(running.attempt.meta) or {}), **(verdict.meta or {})}
    if meta.get(WAIT_UNTIL) is not None:
        event = telemetry.Suspended.of(source, running.job, signal=meta.get(WAITS_FOR), delay=verdict.delay)
        telemetry.emit(event)
    journal = cast("Journal | None", running.durable)  # a chunk has none
    if verdict.state is JobState.COMPLETED and journal is not None and (unused := journal.unused):
        telemetry.emit(telemetry.StepsUnused.of(source, running.job, steps=tuple(unused)))
    if verdict.state in _GOES_ON:
        meta.update(mark(running) or {})
    return verdict._replace(meta=meta) if meta else verdict


def mark(running: Running) -> JSONDict | None:
    """Return what is to be written into the meta of a job that is to run again, where this attempt has journalled."""
    journal = cast("Journal | None", running.durable)
    return {JOURNAL: True} if journal is not None and journal.wrote and not journal.marked else None
