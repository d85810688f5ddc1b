"""How many files of ours one job passes through, and so does who reads what happens to it. Counts, never times.

What counts: every file in which a function is entered from the message that a queue has jobs (`queue_of` reads it)
until the producer of the queue rests again with the outcome written. So the producer's task is part of the trip, with
the statements that fetch and ack, and so are the attempt's own task, its greenlets and its thread; parts of the runner
that tick by themselves are not. By this count the first version of the package had 21 files for a plain job, 29 with an
asynchronous session, and 34 with a synchronous one within middleware. The bars were 16, 20 and 24; they are reached,
and each number below is what is true now: lower it whenever there is less, and never raise it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Job, Runner, job
from oban_sa.workers import Registry
from oban_sa.workers.middleware import CallNext
from tests.performance.trips import Trip, counted
from tests.support import eventually, plain_url

QUIET: dict[str, Any] = {"heartbeat_every": 60, "dead_after": 300, "poll_every": 60, "stage_every": 60}
"""A runner whose periodic parts don't tick while one job goes through it."""


@pytest.fixture
async def looking(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that none of our code knows of."""
    connection = await asyncpg.connect(plain_url(database_url))
    yield connection
    await connection.close()


async def went(engine: AsyncEngine, looking: asyncpg.Connection, registry: Registry, **options: Any) -> Trip:
    """The trip of one job of "worker", from the message that its queue has jobs until its producer rests again.

    That is all that a reader passes who follows one job: the message wakes the producer, whose statement fetches it;
    its code runs, in a task and perhaps in a thread; and the next statement, or the session's commit, writes the
    outcome. It's the second job of its kind, so that all is imported, compiled and connected.
    """
    with counted(since="queue_of") as trip:
        async with Runner(engine, registry=registry, queues={"default": 10}, **QUIET, **options) as runner:
            [producer] = runner._queues.all
            await eventually(lambda: runner._notifier.proven)
            for _ in range(2):
                job_id = await looking.fetchval("INSERT INTO oban_jobs (worker) VALUES ('worker') RETURNING id")
                trip.await_start()
                await looking.execute("""SELECT pg_notify('public.oban_insert', '{"queue": "default"}')""")

                async def completed(job_id: int = job_id) -> None:
                    found = await looking.fetchval("SELECT state::text FROM oban_jobs WHERE id = $1", job_id)
                    assert found == "completed"
                    assert producer.idle()

                await eventually(completed)
                await asyncio.sleep(0)  # the producer takes note of the last answer
                trip.end()
    return trip


async def passes(job: Job, call_next: CallNext) -> Any:
    return await call_next(job)


async def test_a_plain_job_passes_through_few_files(engine: AsyncEngine, looking: asyncpg.Connection) -> None:
    registry = Registry()

    @job(name="worker", registry=registry)
    async def plain() -> None: ...

    trip = await went(engine, looking, registry)
    print(trip)
    assert len(trip.files) <= 14, str(trip)


async def test_a_job_with_an_asynchronous_session_passes_through_few_files(
    engine: AsyncEngine, looking: asyncpg.Connection
) -> None:
    registry = Registry()

    @job(name="worker", registry=registry)
    async def writes(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    trip = await went(engine, looking, registry)
    print(trip)
    assert {"runner/sessions/commit.py", "runner/sessions/connections.py"} <= trip.files  # greenlets count too
    assert len(trip.files) <= 20, str(trip)


async def test_a_job_with_a_session_in_a_thread_within_middleware_passes_through_few_files(
    engine: AsyncEngine, looking: asyncpg.Connection
) -> None:
    registry = Registry()

    @job(name="worker", registry=registry)
    def writes(session: Session) -> None:
        session.execute(text("SELECT 1"))

    trip = await went(engine, looking, registry, middleware=[passes])
    print(trip)
    assert {"runner/sessions/commit.py", "runner/sessions/connections.py"} <= trip.files
    assert len(trip.files) <= 24, str(trip)
