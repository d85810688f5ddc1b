"""Very many jobs, written outside of a session: streamed by COPY while the next ones are being made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import hooks
from oban_sa.bulk.binary import COLUMNS, HEADER, TRAILER, Encode, encoder, fits
from oban_sa.bulk.several import Jobs, Stream
from oban_sa.errors import InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox import enqueued
from oban_sa.outbox.admission import admit, plain
from oban_sa.outbox.announcements import ANNOUNCE, is_announced
from oban_sa.schedule import clock
from oban_sa.sql.layout import layout
from oban_sa.sql.locks import claims_of_many, lock
from oban_sa.sql.notify import announce

_Send: TypeAlias = Callable[[list[bytes]], Coroutine[Any, Any, None]]

TURN: Final = 128
"""Jobs that are made into rows before other tasks of the event loop, the COPY among them, get a turn."""

BATCH: Final = 1_000_000
"""Bytes of rows that one COPY writes; as many again are being made meanwhile.

Not one COPY for all: while it is open, its connection can send no other statement, such as the INSERT of jobs that need
one; and all the time of waiting for jobs would be that of one statement, which may have a `statement_timeout`.
"""

OBJECTS: Final = 1_000
"""Jobs that rows of COPY can't hold, or that come after one, in one flush."""


async def copy(engine: AsyncEngine, jobs: Jobs, *, schema: str, announcing: bool) -> int:
    """Write jobs in one transaction and return how many; `engine` finds the tables in `schema`."""
    with hooks.together():
        return await _copy(engine, jobs, schema=schema, announcing=announcing)


async def _copy(engine: AsyncEngine, jobs: Jobs, *, schema: str, announcing: bool) -> int:
    async with engine.connect() as connection, connection.begin():
        # SQLAlchemy begins the transaction with its own first statement; a COPY bypasses it, and would run outside.
        found: Any = (await connection.execute(layout(schema))).one()
        asked = clock.monotonic()

        def moment() -> datetime:
            # Jobs may be streamed for hours, so the database's clock, which was read once, is moved on by ours.
            now: datetime = found.clock + timedelta(seconds=clock.monotonic() - asked)
            return now

        queues: set[str] = set()
        encode = encoder(values.from_json(found.columns or "{}"), found.now, moment, queues)
        send = None if encode is None else await _sender(connection, schema)
        writing = _Writing(connection, encode, send, queues, schema=schema)
        try:
            await writing.read(jobs)
            await writing.finish()
        finally:
            await writing.end()
        if queues and announcing and await connection.run_sync(is_announced):
            await _announce(connection, queues, schema)
    enqueued.tell(schema, writing.counts)
    return writing.stored


class _Writing(Stream):
    """Writes one transaction's jobs in their order: rows by COPY, the rest by flushes."""

    def __init__(
        self,
        connection: AsyncConnection,
        encode: Encode | None,
        send: _Send | None,
        queues: set[str],
        *,
        schema: str,
    ) -> None:
        super().__init__()
        self._claims = False
        self._schema = schema
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
        self._is_told = hooks.JOBS_ENQUEUED.on
        self.counts: enqueued.Counts = {}
        """What was written, where anything listens."""

    async def finish(self) -> None:
        """Write all that is left."""
        await self._turn(last=True)

    async def end(self) -> None:
        """Stop the COPY that is under way, where one is."""
        if (copying := self._copying) is not None:
            copying.cancel()
            with suppress(asyncio.CancelledError, Exception):  # the error that made us stop is raised instead
                await copying

    def take(self, job: Job) -> bool:
        """Make the row of a job; return whether it is time for a turn."""
        self.check(job)
        if self._encode is not None and not self._objects and fits(job):
            admit(job)
            row = self._encode(job)
            self._rows.append(row)
            self._size += len(row)
            if self._is_told:
                enqueued.add_jobs(self.counts, (job,))
        else:
            plain(job.args, "args")  # now, while it is known which job it is
            plain(job.meta, "meta")
            self._objects.append(job)  # admitted as they are flushed
        self.count += 1
        return self.count >= self._next or self._size >= BATCH

    async def write(self) -> None:
        """Give the COPY a turn."""
        await self._turn(last=False)

    async def _turn(self, *, last: bool) -> None:
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
            await self._flushed()
        if last:
            await self._copied()
        else:
            await asyncio.sleep(0)

    async def _flushed(self) -> None:
        objects, self._objects = self._objects, []
        if not self._claims and any("_unique" in vars(job) for job in objects):
            # The keys of two flushes are in no order. Two transactions of many flushes that claim the same keys would
            # wait for each other, so there is one at a time.
            self._claims = True
            await self._connection.execute(lock(), {"key": claims_of_many(self._schema)})
        await self._connection.run_sync(_flush, objects)
        self._queues.update(job.queue for job in self.changed(objects) if job.state == JobState.AVAILABLE)
        if self._is_told:
            enqueued.add_jobs(self.counts, objects)

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


async def _announce(connection: AsyncConnection, queues: set[str], schema: str) -> None:
    try:
        statement = announce(sorted(queues), schema)
    except InvalidOption:  # no channel can bear the name of this schema; its runners poll
        return
    await connection.execute(statement)
