"""Jobs that do nothing, written, drained and timed for `bench`, in a schema that is dropped at the end."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.schema import CreateSchema, DropSchema

from oban_sa import telemetry
from oban_sa.cli._database import engine
from oban_sa.client import Oban
from oban_sa.errors import RunnerError
from oban_sa.jobs.states import JobState
from oban_sa.migrations import migrate
from oban_sa.models import Job, schema_map
from oban_sa.outbox.enqueue import enqueue_many
from oban_sa.runner import Runner
from oban_sa.schedule import clock
from oban_sa.settings.settings import Settings
from oban_sa.workers import Registry
from oban_sa.workers.function import job

BATCH: Final = 1_000
"""Jobs that a session writes in one transaction."""
TIMES: Final = 100
"""How often a round trip, a commit and the start of a job are measured."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast jobs were written or drained."""

    name: str
    jobs: int
    seconds: float
    cpu: float
    """Share of `seconds` in which this process used a CPU."""

    @property
    def per_second(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was found; durations are in seconds."""

    server: str
    round_trip: float
    commit: float
    rates: list[Rate]
    """Of the drain, and then of the inserts."""
    starts: list[float]


async def measure(settings: Settings, url: str, jobs: int, limit: int, *, say: Callable[[str], None]) -> Measured:
    """Measure in a schema of its own; `say` is told what comes next. Raises RunnerError where the database refuses."""
    async with (
        engine(settings, url, application_name="oban_sa bench", connections=limit) as made,
        _schema(made) as (schema, server),
    ):
        bench = Bench(made, schema, limit, listen_url=settings.listen_url)
        say("the way to the database and back")
        round_trip, commit = await bench.round_trip()
        rates: list[Rate] = []
        for what, step in (
            ("writing jobs in sessions", bench.insert_in_sessions),
            ("writing jobs by COPY", bench.insert_by_copy),
            ("draining jobs", bench.drain),
        ):
            say(what)
            rates.append(await step(jobs))
        say("from commit to start")
        return Measured(server, round_trip, commit, rates[::-1], await bench.commit_to_start())


@asynccontextmanager
async def _schema(engine: AsyncEngine) -> AsyncGenerator[tuple[str, str]]:
    """Make a schema with our tables, and drop it in any case; gives its name and the server's version."""
    # The name is made of letters, digits and underscores alone, so statements hold it unquoted.
    schema = f"oban_bench_{secrets.token_hex(4)}"
    async with engine.connect() as connection:
        server = str((await connection.execute(text("SHOW server_version"))).scalar_one()).split()[0]
        await connection.execute(CreateSchema(schema))
        await connection.commit()
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate, schema)
            await connection.commit()
        yield schema, server
    finally:
        async with engine.connect() as connection:
            await connection.execute(DropSchema(schema, cascade=True, if_exists=True))
            await connection.commit()


class Bench:
    """Jobs that do nothing, written and drained; each way of writing begins with an empty table."""

    def __init__(self, engine: AsyncEngine, schema: str, limit: int, *, listen_url: str | None) -> None:
        self._engine = engine.execution_options(schema_translate_map=schema_map(schema))
        self._table = f"{schema}.oban_jobs"
        self._oban = Oban(engine, schema=schema)
        self._started: Callable[[], None] = lambda: None
        registry = Registry()

        @job(name="bench.nothing", registry=registry)
        async def nothing(number: int) -> None:
            self._started()

        self._runner: Callable[[], Runner] = lambda: Runner(
            self._engine,
            schema=schema,
            name="bench",
            registry=registry,
            queues={"default": limit},
            listen_url=listen_url,
        )

    async def round_trip(self) -> tuple[float, float]:
        """Return the median seconds of a statement that does nothing, and of the smallest write with its commit."""
        insert = f"INSERT INTO {self._table} (worker) VALUES ('bench.nothing')"  # noqa: S608 - see _schema
        async with self._engine.connect() as connection:
            # The driver's own connection, which commits each statement: SQLAlchemy's price is not the network's.
            driver: Any = (await connection.get_raw_connection()).driver_connection
            found: list[float] = []
            for statement in ("SELECT 1", insert):
                await driver.fetchval(statement)  # prepares it
                durations: list[float] = []
                for _ in range(TIMES):
                    began = clock.monotonic()
                    await driver.fetchval(statement)
                    durations.append(clock.monotonic() - began)
                found.append(statistics.median(durations))
        return found[0], found[1]

    async def insert_by_copy(self, jobs: int) -> Rate:
        await self._execute("TRUNCATE {}")
        return await self._rate("insert_by_copy", jobs, lambda: self._oban.enqueue_many(map(_job, range(jobs))))

    async def insert_in_sessions(self, jobs: int) -> Rate:
        async def write() -> None:
            for first in range(0, jobs, BATCH):
                await self._write([_job(number) for number in range(first, min(first + BATCH, jobs))])

        await self._execute("TRUNCATE {}")
        return await self._rate("insert_in_sessions", jobs, write)

    async def drain(self, jobs: int) -> Rate:
        """Drain the jobs written last; raises RunnerError where one was not completed by its first attempt."""
        await self._execute("VACUUM ANALYZE {}")  # as autovacuum does in time
        began = ended = cpu = 0.0

        def fetched(event: telemetry.ProducerFetch) -> None:
            nonlocal began, cpu
            if not began:
                began, cpu = clock.monotonic() - event.duration, time.process_time()

        def acked(event: telemetry.ProducerAck) -> None:
            nonlocal ended
            ended = clock.monotonic()

        detaches = [telemetry.attach(fetched, telemetry.ProducerFetch), telemetry.attach(acked, telemetry.ProducerAck)]
        try:
            await self._runner().run(until_idle=True)
            cpu = time.process_time() - cpu
        finally:
            for detach in detaches:
                detach()
        async with AsyncSession(self._engine) as session:
            completed = (Job.state == JobState.COMPLETED, Job.attempt == 1)
            done = await session.scalar(select(func.count()).select_from(Job).where(*completed)) or 0
        if done != jobs:
            raise RunnerError(f"{done:,} of {jobs:,} jobs were completed by their first attempt; nothing is counted")
        return Rate("drain", jobs, ended - began, min(1.0, cpu / (ended - began)))

    async def commit_to_start(self) -> list[float]:
        """Return the seconds from asking for the commit of a job to the start of its code, sorted."""
        started = asyncio.Event()
        at = 0.0

        def note() -> None:
            nonlocal at
            at = clock.monotonic()
            started.set()

        await self._execute("TRUNCATE {}")
        self._started = note
        found: list[float] = []
        async with self._runner():
            for number in range(TIMES):
                started.clear()
                async with AsyncSession(self._engine, expire_on_commit=False) as session:
                    enqueue_many(session, [_job(number)])
                    await session.flush()
                    began = clock.monotonic()
                    await session.commit()
                await started.wait()
                found.append(at - began)
        return sorted(found)

    async def _rate(self, name: str, jobs: int, write: Callable[[], Awaitable[object]]) -> Rate:
        began, cpu = clock.monotonic(), time.process_time()
        await write()
        seconds = clock.monotonic() - began
        return Rate(name, jobs, seconds, min(1.0, (time.process_time() - cpu) / seconds))

    async def _write(self, jobs: list[Job]) -> None:
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            enqueue_many(session, jobs)

    async def _execute(self, statement: str) -> None:
        """Run a statement about the table outside of a transaction, as VACUUM needs it."""
        async with self._engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(text(statement.format(self._table)))


def _job(number: int) -> Job:
    return Job("bench.nothing", args={"number": number})
