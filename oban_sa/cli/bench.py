"""`python -m oban_sa bench`: how fast jobs go through this database, from this machine."""

from __future__ import annotations

import asyncio
import platform
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.schema import CreateSchema, DropSchema

from oban_sa import clock
from oban_sa.cli._connecting import database_options, json_option
from oban_sa.cli._printing import document, table
from oban_sa.client import Oban
from oban_sa.enqueueing import enqueue_many
from oban_sa.migrations import migrate
from oban_sa.models import Job, schema_map
from oban_sa.runner import Runner
from oban_sa.runner.command import service
from oban_sa.runner.engine import create_engine, explained
from oban_sa.settings import Settings
from oban_sa.workers import Registry
from oban_sa.workers.function import job

HELP = """Measure how fast jobs go through this database, from this machine and in one process.

\b
  insert by COPY      Oban.enqueue_many, in one transaction
  insert in sessions  enqueue_many(session, ...), in transactions of 1,000 jobs
  insert one by one   a transaction of its own for each job
  drain               a runner fetches, runs and completes all of them; the jobs do nothing
  commit to start     milliseconds from asking for a job's commit until its code runs, on an idle runner

It works in a schema of its own, which is dropped at the end; nothing else in the database is touched. The figures are
for jobs that do nothing: what your jobs do takes its own time. Run it where your runners run, since most of what is
measured is the way to the database and its disk.

\b
Examples:
  python -m oban_sa bench
  python -m oban_sa bench --jobs 100000 --limit 200 --json
"""

BATCH: Final = 1_000
ONE_BY_ONE: Final = 500
ROUND_TRIPS: Final = 100


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured."""

    name: str
    what: str
    jobs: int
    seconds: float

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds if self.seconds else 0.0


@click.command("bench", help=HELP, short_help="Measure how fast jobs go through this database.")
@click.option("--jobs", type=click.IntRange(100, 10_000_000), default=10_000, show_default=True, help="How many.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many the runner runs at once."
)
@json_option
@database_options
def command(settings: Settings, *, jobs: int, limit: int, as_json: bool) -> None:
    """Measure, and print what was found."""
    service.require_database(settings)
    with service.database(settings) as url:
        server, figures, waits = service.run(_measured(settings, url, jobs, limit))
    percentiles = {f"p{part}": waits[min(len(waits) - 1, len(waits) * part // 100)] for part in (50, 95, 99)}
    if as_json:
        document(
            {
                "server": server,
                "python": platform.python_version(),
                "jobs": jobs,
                "limit": limit,
                "rates": {figure.name: round(figure.rate, 1) for figure in figures},
                "commit_to_start_ms": {name: round(value * 1000, 2) for name, value in percentiles.items()},
            }
        )
        return
    click.echo(f"PostgreSQL {server}, Python {platform.python_version()}, one process, jobs that do nothing\n")
    rows = [
        (each.name.replace("_", " "), f"{each.rate:,.0f} jobs/s", f"{each.jobs:,}", f"{each.seconds:.2f} s", each.what)
        for each in figures
    ]
    table(("measured", "rate", "jobs", "took", "what"), rows, right=("rate", "jobs", "took"), wide="what")
    shown = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in percentiles.items())
    click.echo(f"\nFrom commit to start, on an idle runner: {shown}  ({len(waits)} jobs, one after another)")


async def _measured(settings: Settings, url: str, jobs: int, limit: int) -> tuple[str, list[Figure], list[float]]:
    made = create_engine(url, application_name="oban_sa bench", connections=limit, pooler=settings.pooler)
    try:
        async with _schema(made) as (schema, server):
            mapped = made.execution_options(schema_translate_map=schema_map(schema))
            bench = _Bench(mapped, schema, limit, listen_url=settings.listen_url)
            figures = [
                await bench.figure("insert_by_copy", "Oban.enqueue_many, one transaction", jobs, bench.by_copy),
                await bench.figure("drain", f"a runner, {limit} at once, all of them", jobs, bench.drain),
                await bench.figure("insert_in_sessions", f"{BATCH:,} to a transaction", jobs, bench.in_sessions),
                await bench.figure(
                    "insert_one_by_one", "a transaction for each", min(jobs, ONE_BY_ONE), bench.one_by_one
                ),
            ]
            await bench.drain(0)
            return server, figures, sorted(await bench.waits(ROUND_TRIPS))
    except Exception as error:
        if known := explained(error, url):
            raise known from error
        raise
    finally:
        await made.dispose()


@asynccontextmanager
async def _schema(engine: AsyncEngine) -> AsyncGenerator[tuple[str, str]]:
    """Make a schema with our tables, and drop it whatever happens."""
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


class _Bench:
    """Jobs that do nothing, put in and taken out in several ways."""

    def __init__(self, engine: AsyncEngine, schema: str, limit: int, *, listen_url: str | None) -> None:
        self._engine = engine
        self._schema = schema
        self._limit = limit
        self._listen_url = listen_url
        self._oban = Oban(engine, schema=schema)
        self._registry = Registry()
        self._started: Callable[[], None] = lambda: None

        @job(name="bench.nothing", registry=self._registry)
        async def nothing(number: int) -> None:
            self._started()

    async def figure(self, name: str, what: str, jobs: int, measured: Callable[[int], Awaitable[Any]]) -> Figure:
        """Measure how long it takes to do something with so many jobs."""
        began = clock.monotonic()
        await measured(jobs)
        return Figure(name, what, jobs, clock.monotonic() - began)

    async def by_copy(self, jobs: int) -> None:
        await self._oban.enqueue_many(_job(number) for number in range(jobs))

    async def in_sessions(self, jobs: int) -> None:
        for first in range(0, jobs, BATCH):
            await self._stored([_job(number) for number in range(first, min(first + BATCH, jobs))])

    async def one_by_one(self, jobs: int) -> None:
        for number in range(jobs):
            await self._stored([_job(number)])

    async def drain(self, _jobs: int) -> None:
        await self._runner().run(until_idle=True)

    async def waits(self, jobs: int) -> list[float]:
        """Seconds from asking for the commit of a job to the start of its code, one job after another."""
        started = asyncio.Event()
        moments: list[float] = []

        def note() -> None:
            moments.append(clock.monotonic())
            started.set()

        self._started = note
        found: list[float] = []
        async with self._runner():
            for number in range(jobs):
                started.clear()
                async with AsyncSession(self._engine, expire_on_commit=False) as session:
                    enqueue_many(session, [_job(number)])
                    await session.flush()
                    began = clock.monotonic()
                    await session.commit()
                await started.wait()
                found.append(moments[-1] - began)
        return found

    def _runner(self) -> Runner:
        return Runner(
            self._engine,
            schema=self._schema,
            name="bench",
            registry=self._registry,
            queues={"default": self._limit},
            listen_url=self._listen_url,
        )

    async def _stored(self, jobs: list[Job]) -> None:
        async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
            enqueue_many(session, jobs)


def _job(number: int) -> Job:
    return Job("bench.nothing", args={"number": number})
