"""Durable steps of code in a process: their journal is the runner's, which is asked through the channel.

Both ends are here; nothing of it is loaded before code in a process takes a step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from concurrent.futures import Future
from typing import Protocol, TypeVar, cast

from oban_sa import telemetry
from oban_sa.jobs.durable import JOURNAL, PROGRESS
from oban_sa.models import Job
from oban_sa.runner.concurrency.processes.protocol import AskJournal, PlainEntry, Question
from oban_sa.steps.journal import Entry, Journal, driven, on_loop
from oban_sa.telemetry import JobEvent
from oban_sa.workers.loop import awaited

T = TypeVar("T")


# In the process.


class Asking(Protocol):
    """The attempt in its process, which can ask the runner."""

    def ask(self, what: Question, *values: object) -> Future[object]:
        """Ask the journal of the attempt."""
        ...

    def tell(self, event: type[JobEvent], facts: dict[str, object]) -> None:
        """Have the runner tell of something that happened to the job."""
        ...


class ChannelTables:
    """The tables of an attempt's journal, at the other end of the channel; see `oban_sa.steps.journal.Tables`.

    They take no part in a session: its transaction is one of this process.
    """

    def __init__(self, attempt: Asking) -> None:
        self._attempt = attempt

    async def read(self) -> Iterable[Entry]:
        """Return all entries of the job."""
        return [Entry(*each) for each in cast("Iterable[PlainEntry]", await self._asked("read"))]

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Write an entry, or return the one of that name that is there and done."""
        return Entry(*cast("PlainEntry", await self._asked("write", tuple(entry), delay)))

    async def wait(self, key: str, name: str, *, within: float | None) -> Entry:
        """Take the oldest signal of a name, or say that the job waits for one."""
        return Entry(*cast("PlainEntry", await self._asked("wait", key, name, within)))

    async def mark(self) -> None:
        """Have the next attempt read the journal before its code begins."""
        await self._asked("mark")

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        """Wait for an answer where no loop runs: in a `def`, or a thread."""
        return driven(awaited(awaitable))

    async def _asked(self, what: Question, *values: object) -> object:
        answer = self._attempt.ask(what, *values)
        return await asyncio.wrap_future(answer) if on_loop() else answer.result()


class ChannelJournal(Journal):
    """The journal of an attempt in its process; what happens is told by the runner."""

    def __init__(self, attempt: Asking, job: Job, entries: Iterable[PlainEntry] | None) -> None:
        """`entries` are those that the runner has read, if it has."""
        here = telemetry.Source(node="process")
        super().__init__(ChannelTables(attempt), job, source=here, marked=JOURNAL in job.meta, fresh=False)
        self._attempt = attempt
        if entries is not None:
            self.begin(Entry(*each) for each in entries)

    def emit(self, event: type[JobEvent], **facts: object) -> None:
        """Have the runner tell of something that happened to the job."""
        self._attempt.tell(event, facts)


# In the runner.


async def answered(journal: Journal, asked: AskJournal) -> object:
    """Ask the journal of an attempt what its process wants to know, and return what crosses of the answer."""
    match asked.what, asked.values:
        case "read", ():
            await journal.read()
            return [tuple(entry) for entry in journal.entries or ()]
        case "write", (plain, delay):
            entry = Entry(*cast("PlainEntry", plain))
            if entry.name != PROGRESS:
                return tuple(await journal.write(entry, delay=cast("float | None", delay)))
            await journal.tell(entry)
            return plain
        case "wait", (key, name, within):
            waited = journal.tables.wait(str(key), str(name), within=cast("float | None", within))
            entry = await journal.wait(waited)
            journal.add(entry)
            return tuple(entry)
        case "mark", ():
            await journal.mark()
            return None
        case _:
            raise AssertionError(f"a process asked its journal for {asked.what}")
