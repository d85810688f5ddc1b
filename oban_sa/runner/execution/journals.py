"""The journals of the attempts of a runner: what steps write at the same time goes into one statement."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from oban_sa.errors import AttemptLost
from oban_sa.jobs import backoff
from oban_sa.jobs.verdicts import Attempt
from oban_sa.models import Job
from oban_sa.outbox.announcements import schema_of
from oban_sa.runner.cluster.attempt_age import Written, naive
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_passing
from oban_sa.runner.database.prepared import Prepared
from oban_sa.schedule import clock
from oban_sa.sql.signals import wait
from oban_sa.sql.steps import Row, as_arrays, mark, read, write
from oban_sa.steps.journal import Entry

T = TypeVar("T")

BATCH: Final = 100
"""Entries that one statement writes."""

SIZE: Final = 8_000_000
"""Characters of values that one statement writes, or one value that is longer."""

LOCKED_EVERY: Final = 0.05
"""Seconds between tries where another transaction has locked the row of the job."""

_BIND: Final = {"mapper": inspect(Job)}


class _Writing(NamedTuple):
    """An entry on its way."""

    attempt: Attempt
    entry: Entry
    delay: float | None
    written: asyncio.Future[Entry]


class Journals:
    """Reads and writes the journals of all attempts of a runner, on a connection of its own.

    None is opened before there is a step. A statement that fails because the database is away, or whose answer is lost,
    is sent again: an entry that is there already is returned like one that was just written.
    """

    def __init__(self, database: Database, young: Written) -> None:
        self.young = young
        """Which attempts were kept young."""
        self._schema = database.schema
        self._line = database.line()
        self._read = database.prepare(read, self._schema)
        self._write = database.prepare(write, self._schema)
        self._mark = database.prepare(mark, self._schema)
        self._wait = database.prepare(wait, self._schema)
        self._waiting: deque[_Writing] = deque()
        self._flushing: asyncio.Task[None] | None = None

    async def read(self, attempt: Attempt) -> list[Entry]:
        """Return the journal of a job."""
        return [entry_of(row) for row in await self.fetch(self._read, job_id=attempt.job_id)]

    async def write(self, attempt: Attempt, entry: Entry, *, delay: float | None) -> Entry:
        """Write an entry, together with those of others; see `oban_sa.steps.journal.Tables`."""
        written: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Writing(attempt, entry, delay, written))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="oban_sa journal")
        return await written

    async def mark(self, attempt: Attempt) -> None:
        """Say in the meta of a job that it has a journal."""
        while True:
            [row] = await self.fetch(self._mark, **self.fence(attempt))
            if row["marked"]:
                return
            if not row["held"]:
                raise AttemptLost
            await asyncio.sleep(LOCKED_EVERY)

    async def wait(self, attempt: Attempt, key: str, name: str, *, within: float | None) -> Entry:
        """Take the oldest signal of a name, or open the wait for one."""
        lost = False
        while True:
            [row] = await self.fetch(self._wait, **self.fence(attempt), key=key, name=name, within=within)
            if row["held"] and row["code"] is not None:
                return entry_of({**row, "name": key})
            if not row["held"]:
                if lost:  # and not kept young just now
                    raise AttemptLost
                lost = True
            await asyncio.sleep(LOCKED_EVERY)

    async def fetch(self, statement: Prepared, **values: object) -> list[asyncpg.Record]:
        """Run a statement that does no harm twice; again while the database is away."""
        failures = 0
        while True:
            try:
                return await self._line.fetch(statement, **values)
            except Exception as error:
                if not is_passing(error):
                    raise
                failures += 1
                await asyncio.sleep(backoff.retrying(failures))

    def moments(self, attempt: Attempt) -> list[datetime]:
        """What the row may have as `attempted_at`, naive."""
        begun = [] if attempt.attempted_at is None else [attempt.attempted_at]
        return naive([*begun, *self.young.of(attempt)])

    def fence(self, attempt: Attempt) -> dict[str, object]:
        """The parameters of a fence of one attempt."""
        node, producer = attempt.holder
        return {
            "job_id": attempt.job_id,
            "attempt": attempt.attempt,
            "node": node,
            "producer": producer,
            "moments": self.moments(attempt),
        }

    def rows(self, attempt: Attempt, entry: Entry, number: int, delay: float | None = None) -> list[Row]:
        """What `oban_sa.sql.steps.write` is told of an entry."""
        return rows(attempt, self.moments(attempt), entry, number, delay)

    async def close(self) -> None:
        """Close the connection."""
        if self._flushing is not None:
            self._flushing.cancel()
        await self._line.close()

    async def _flush(self) -> None:
        while self._waiting:
            taken = self._take()
            try:
                try:
                    await self._write_all(taken)
                except Exception:
                    if len(taken) == 1:
                        raise
                    # One of them can't be written, and those of other jobs are not to fail with it.
                    for each in taken:
                        await self._write_alone(each)
            except BaseException as error:
                _fail(taken, error)
                if not isinstance(error, Exception):
                    raise

    def _take(self) -> list[_Writing]:
        """Take what goes into one statement, in order: no name of a job twice, which a statement can't write."""
        taken: list[_Writing] = []
        names, size = set[tuple[int, str]](), 0
        while self._waiting and len(taken) < BATCH:
            following = self._waiting[0]
            name = following.attempt.job_id, following.entry.name
            size += len(following.entry.value or "")
            if name in names or (taken and size > SIZE):
                break
            names.add(name)
            taken.append(self._waiting.popleft())
        return taken

    async def _write_alone(self, writing: _Writing) -> None:
        if not writing.written.done():
            try:
                await self._write_all([writing])
            except Exception as error:
                _fail([writing], error)

    async def _write_all(self, taken: Iterable[_Writing]) -> None:
        left = dict(enumerate(taken))
        # A job may be kept young just now, or another transaction commit the same name: it is found the second time.
        for turn in itertools.count():
            said = [row for n, each in left.items() for row in self.rows(each.attempt, each.entry, n, each.delay)]
            found = await self.fetch(self._write, **as_arrays(said))
            held = {row["number"] for row in found if row["held"]}
            for row in found:
                each = left.get(row["number"])
                if each is None or row["number"] not in held or row["name"] is None:
                    continue
                del left[row["number"]]
                if not each.written.done():
                    each.written.set_result(entry_of(row))
            if not left:
                return
            for number, each in list(left.items()):
                if turn and number not in held:
                    del left[number]
                    if not each.written.done():
                        each.written.set_exception(AttemptLost())
            if not left:
                return


def _fail(taken: Iterable[_Writing], error: BaseException) -> None:
    for each in taken:
        if not each.written.done():
            each.written.set_exception(AttemptLost() if isinstance(error, GeneratorExit) else error)


class AttemptTables:
    """The journal of one attempt."""

    def __init__(self, journals: Journals, attempt: Attempt, wait: Callable[[Awaitable[object]], object]) -> None:
        """`wait` has something done on the loop, for a thread."""
        self._journals = journals
        self._attempt = attempt
        self._wait = wait

    async def read(self) -> Iterable[Entry]:
        """Return all entries of the job."""
        return await self._journals.read(self._attempt)

    async def write(self, entry: Entry, *, delay: float | None = None) -> Entry:
        """Write an entry; see `oban_sa.steps.journal.Tables`."""
        return await self._journals.write(self._attempt, entry, delay=delay)

    async def wait(self, key: str, name: str, *, within: float | None) -> Entry:
        """Take a signal, or open the wait for one; see `oban_sa.steps.journal.Tables`."""
        return await self._journals.wait(self._attempt, key, name, within=within)

    async def mark(self) -> None:
        """Have the next attempt read the journal before its code begins."""
        await self._journals.mark(self._attempt)

    def write_in(self, session: Session, entry: Entry) -> tuple[Entry | None, bool]:
        """Write an entry in a session's transaction; see `oban_sa.steps.in_session.Journalling`."""
        return write_in(session, entry, lambda: self._journals.moments(self._attempt), self._attempt)

    def end(self, session: Session, *, keep: bool) -> None:
        """Commit a session, or roll it back."""
        if keep:
            session.commit()
        else:
            session.rollback()

    def in_thread(self, awaitable: Awaitable[T]) -> T:
        """Have something done on the loop, and return its result."""
        return self._wait(awaitable)  # type: ignore[return-value]


def rows(
    attempt: Attempt, moments: Iterable[datetime], entry: Entry, number: int, delay: float | None = None
) -> list[Row]:
    """What `oban_sa.sql.steps.write` is told of an entry, once for each moment by which its job may be held."""
    node, producer = attempt.holder
    return [
        (
            *(attempt.job_id, attempt.attempt, moment, node, producer, number),
            *(entry.name, entry.code, entry.value, delay, entry.done),
        )
        for moment in moments
    ]


def write_in(
    session: Session, entry: Entry, moments: Callable[[], list[datetime]], attempt: Attempt
) -> tuple[Entry | None, bool]:
    """Write an entry in a session's transaction: what stands under its name, and whether that is this one."""
    connection = session.connection(bind_arguments=_BIND)
    statement = write(schema_of(connection))
    while True:
        given = moments()
        said = as_arrays(rows(attempt, given, entry, 0))
        found = [row for row in connection.execute(statement, said).mappings() if row["held"]]
        if not found:
            if moments() != given:  # it was kept young meanwhile
                continue
            return None, False
        there = [row for row in found if row["name"] is not None]
        if there:
            written = entry_of(dict(there[0]))
            return written, there[0]["written"]


def entry_of(row: Mapping[str, Any] | asyncpg.Record) -> Entry:
    """Return the entry that a row of `oban_sa.sql.steps.read` is."""
    return Entry(row["name"], row["code"], row["value"], row["done"], row["seconds"], row["ms"], clock.monotonic())
