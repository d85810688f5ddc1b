"""Very many jobs at once, outside of a session: streamed by COPY, or by large INSERTs where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, TypeAlias

import asyncpg
from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state

from oban_sa import hooks, values
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption
from oban_sa.models import Job
from oban_sa.outbox import ANNOUNCE
from oban_sa.sql.inserting import COLUMNS, inserting
from oban_sa.sql.moments import utc_now
from oban_sa.sql.notifying import announce
from oban_sa.states import FINAL, JobState

Jobs: TypeAlias = Iterable[Job] | AsyncIterable[Job]

CHUNK: Final = 2_000
"""Jobs that are in memory at once; also how many are made into rows before the loop gets its turn again."""

_UNUSUAL: Final = (
    "id",
    "errors",
    "attempt",
    "attempted_by",
    "inserted_at",
    "attempted_at",
    "completed_at",
    "cancelled_at",
    "discarded_at",
)
"""What only jobs with a past have, or with an id of their own; such chunks are written as objects."""

_PAST: Final = FINAL | {JobState.EXECUTING}
_INSERTING: Final = inserting()
_NOW: Final = select(utc_now())


async def copy(engine: AsyncEngine, jobs: Any, *, schema: str, announcing: bool) -> int:
    """Write jobs in one transaction and return how many; `engine` finds the tables in `schema`."""
    if isinstance(jobs, Job) or not isinstance(jobs, (Iterable, AsyncIterable)):
        raise TypeError(f"enqueue_many takes several jobs, got {jobs!r}; for one write enqueue(job)")
    given: Jobs = jobs  # pyright: ignore[reportUnknownVariableType]
    count = 0
    queues: set[str] = set()
    async with engine.connect() as connection, connection.begin():
        # The transaction begins with a statement of SQLAlchemy's, not with what the driver is told behind its back.
        now: datetime = (await connection.execute(_NOW)).scalar_one()
        driver = await _driver(connection)
        async for chunk in _chunks(given):
            if not _all_new(chunk):
                await connection.run_sync(_write_objects, chunk)
            elif driver is not None:
                records = [_record(_shown(job), now) for job in chunk]
                await driver.copy_records_to_table("oban_jobs", schema_name=schema, columns=COLUMNS, records=records)
            else:
                rows = values.dumps([_row(_shown(job)) for job in chunk])
                await connection.execute(_INSERTING, {"rows": rows})
            count += len(chunk)
            queues.update(job.queue for job in chunk if job.state == JobState.AVAILABLE)
        if queues and announcing and await connection.run_sync(_announces):
            await _announce(connection, queues, schema)
    return count


async def _driver(connection: AsyncConnection) -> Any:
    """Return the connection to COPY on, or None where that can't be done."""
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if connection.dialect.driver != "asyncpg" or not hasattr(raw, "copy_records_to_table"):
        return None
    try:
        # An engine may have put a codec of its own on its connections, which would make a string of JSON text.
        kind = await raw.fetchval("SELECT jsonb_typeof($1::jsonb)", "{}")
    except asyncpg.DataError:
        return None
    return raw if kind == "object" else None


async def _chunks(jobs: Jobs) -> AsyncIterator[list[Job]]:
    if isinstance(jobs, AsyncIterable):
        chunk: list[Job] = []
        async for job in jobs:
            chunk.append(job)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk
        return
    rest: Iterator[Job] = iter(jobs)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _all_new(jobs: list[Job]) -> bool:
    return min([_is_new(job) for job in jobs])  # not all(): each of them is to be looked at


def _is_new(job: Any) -> bool:
    """Accept a job that may be enqueued; tell whether it is a new one without a past."""
    if not isinstance(job, Job):
        raise TypeError(f"a Job is enqueued, got {job!r}; make one: SendWelcome.new(...)")
    state = instance_state(job)
    if state.key is not None or state.session_id is not None:
        raise InvalidJob(f"{job} is in a session, or stored already; enqueue a new one made of the same args")
    if job.state in _PAST:
        raise InvalidJob(f"a job that is {job.state} can't be enqueued; session.add(job) stores one as it is")
    loaded = job.__dict__
    return not any(loaded.get(column) for column in _UNUSUAL)


def _shown(job: Job) -> Job:
    """The job after whoever looks at jobs about to be written has seen it; objects are shown by their flush."""
    hooks.writing(job)
    return job


def _record(job: Job, now: datetime) -> tuple[Any, ...]:
    """What COPY takes, in the order of `COLUMNS`."""
    moment: Any = job.scheduled_at
    return (
        job.worker,
        job.queue,
        job.state,
        values.dumps(_plain(job.args, "args")) if job.args else "{}",
        values.dumps(_plain(job.meta, "meta")) if job.meta else "{}",
        job.tags,
        job.max_attempts,
        job.priority,
        now if moment is None else _naive(moment),
    )


def _row(job: Job) -> dict[str, Any]:
    moment: Any = job.scheduled_at
    return {
        "worker": job.worker,
        "queue": job.queue,
        "state": job.state,
        "args": _plain(job.args, "args"),
        "meta": _plain(job.meta, "meta"),
        "tags": job.tags,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "scheduled_at": None if moment is None else _naive(moment).isoformat(),
    }


def _plain(value: dict[str, Any], where: str) -> Any:
    plain = values.to_json(value, where=where)
    if values.has_references(plain):
        raise InvalidArguments(
            f"{where} holds ref(...), whose object only a session can write; use enqueue_many(session, jobs)",
            path=where,
        )
    return plain


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None) if moment.tzinfo is UTC else moment.astimezone(UTC).replace(tzinfo=None)


def _write_objects(connection: Connection, jobs: list[Job]) -> None:
    for job in jobs:
        _plain(job.args, "args")
        _plain(job.meta, "meta")
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
