"""Very many jobs at once, outside of a session: streamed by COPY while the next ones are being made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import clock, values
from oban_sa.client.encoding import COLUMNS, HEADER, TRAILER, Encode, encoder, enqueueable, plain
from oban_sa.errors import InvalidJob, InvalidOption
from oban_sa.models import Job
from oban_sa.outbox import ANNOUNCE
from oban_sa.sql.copying import layout
from oban_sa.sql.notifying import announce
from oban_sa.states import JobState

Jobs: TypeAlias = Iterable[Job] | AsyncIterable[Job]

_Send: TypeAlias = Callable[[list[bytes]], Coroutine[Any, Any, None]]

TURN: Final = 128
"""Jobs that are made into rows before the loop gets its turn, and what is being written can go on."""

BATCH: Final = 1_000_000
"""Bytes of rows that one COPY writes; as many again are being made meanwhile.

Not one COPY for all: while it is open nothing else can be said on its connection, no INSERT for jobs that need one, and
all the time that is spent waiting for jobs would be that of one statement, which applications put limits to.
"""

OBJECTS: Final = 1_000
"""Jobs with a past, or after one, that are written as objects by one flush."""


async def copy(engine: AsyncEngine, jobs: Any, *, schema: str, announcing: bool) -> int:
    """Write jobs in one transaction and return how many; `engine` finds the tables in `schema`."""
    if isinstance(jobs, Job) or not isinstance(jobs, (Iterable, AsyncIterable)):
        raise TypeError(f"enqueue_many takes several jobs, got {jobs!r}; for one write enqueue(job)")
    given: Jobs = jobs  # pyright: ignore[reportUnknownVariableType]
    async with engine.connect() as connection, connection.begin():
        # The transaction begins with a statement of SQLAlchemy's, not with what the driver is told behind its back.
        found: Any = (await connection.execute(layout(schema))).one()
        asked = clock.monotonic()

        def moment() -> datetime:
            # Jobs may be streamed for hours, in which what the database said once goes on like its own clock.
            now: datetime = found.clock + timedelta(seconds=clock.monotonic() - asked)
            return now

        queues: set[str] = set()
        encode = encoder(values.from_json(found.columns or "{}"), found.now, moment, queues)
        send = None if encode is None else await _sender(connection, schema)
        writing = _Writing(connection, encode, send, queues)
        try:
            await writing.write(given)
        finally:
            await writing.end()
        if queues and announcing and await connection.run_sync(_announces):
            await _announce(connection, queues, schema)
    return writing.count


class _Writing:
    """One transaction's jobs on their way into the table, in their order: rows are copied, the rest is flushed."""

    def __init__(
        self, connection: AsyncConnection, encode: Encode | None, send: _Send | None, queues: set[str]
    ) -> None:
        self.count = 0
        self._connection = connection
        self._encode = None if send is None else encode
        self._send = send
        self._queues = queues
        self._rows: list[bytes] = []  # of this turn
        self._turns: list[bytes] = []  # of the next COPY
        self._size = 0
        self._next = TURN
        self._objects: list[Job] = []  # to be flushed, once the rows before them are written
        self._copying: asyncio.Task[None] | None = None

    async def write(self, jobs: Jobs) -> None:
        """Write all of `jobs`; what is refused says which of them it is."""
        take = self._take
        try:
            if isinstance(jobs, AsyncIterable):
                async for job in jobs:
                    if take(job):
                        await self._turn()
            else:
                for job in jobs:
                    if take(job):
                        await self._turn()
        except InvalidJob as refused:
            refused.number(self.count)
            raise
        await self._turn(last=True)

    async def end(self) -> None:
        """Stop the COPY that is under way, where one is."""
        if (copying := self._copying) is not None:
            copying.cancel()
            with suppress(asyncio.CancelledError, Exception):  # whatever made us stop is told instead
                await copying

    def _take(self, job: Job) -> bool:
        """Make the row of a job; return whether it is time for a turn."""
        try:
            row = None
            if self._encode is None or self._objects:
                enqueueable(job)
            else:
                row = self._encode(job)
        except TypeError as error:
            if isinstance(job, Job):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise
            raise TypeError(f"jobs[{self.count}]: {error}") from None
        if row is not None:
            self._rows.append(row)
            self._size += len(row)
        else:
            plain(job.args, "args")  # now, while it is known which job it is
            plain(job.meta, "meta")
            self._objects.append(job)
            if job.state == JobState.AVAILABLE:
                self._queues.add(job.queue)
        self.count += 1
        return self.count >= self._next or self._size >= BATCH

    async def _turn(self, *, last: bool = False) -> None:
        self._next = self.count + TURN
        if self._rows:
            self._turns.append(b"".join(self._rows))
            self._rows.clear()
        if self._send is not None and self._turns and (last or self._objects or self._size >= BATCH):
            await self._copied()
            turns, self._turns, self._size = self._turns, [], 0
            self._copying = asyncio.create_task(self._send(turns))
        if self._objects and (last or len(self._objects) >= OBJECTS):
            await self._copied()
            objects, self._objects = self._objects, []
            await self._connection.run_sync(_flush, objects)
        if last:
            await self._copied()
        else:
            await asyncio.sleep(0)

    async def _copied(self) -> None:
        if (copying := self._copying) is not None:
            await copying
            self._copying = None


async def _sender(connection: AsyncConnection, schema: str) -> _Send | None:
    """Return what sends rows by COPY on this connection, or None where its driver is another."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if connection.dialect.driver == "asyncpg" and hasattr(raw, "copy_to_table"):

        async def by_asyncpg(rows: list[bytes]) -> None:
            await raw.copy_to_table(
                "oban_jobs", schema_name=schema, columns=COLUMNS, format="binary", source=_parts(rows)
            )

        return by_asyncpg
    if connection.dialect.driver == "psycopg" and hasattr(raw, "cursor"):
        name = ".".join(connection.dialect.identifier_preparer.quote_identifier(part) for part in (schema, "oban_jobs"))
        statement = f"COPY {name} ({', '.join(COLUMNS)}) FROM STDIN (FORMAT binary)"

        async def by_psycopg(rows: list[bytes]) -> None:
            async with raw.cursor() as cursor, cursor.copy(statement) as copying:
                async for part in _parts(rows):
                    await copying.write(part)

        return by_psycopg
    return None


async def _parts(rows: list[bytes]) -> AsyncIterator[bytes]:
    yield HEADER
    for part in rows:
        yield part
    yield TRAILER


def _flush(connection: Connection, jobs: list[Job]) -> None:
    with Session(connection, expire_on_commit=False) as session:
        session.info[ANNOUNCE] = False  # all is announced at the end, once
        session.add_all(jobs)
        session.flush()
        session.expunge_all()


def _announces(connection: Connection) -> bool:
    return connection.get_execution_options().get(ANNOUNCE, True) is not False


async def _announce(connection: AsyncConnection, queues: set[str], schema: str) -> None:
    try:
        statement = announce(sorted(queues), schema)
    except InvalidOption:  # no channel can bear the name of this schema; its runners poll
        return
    await connection.execute(statement)
