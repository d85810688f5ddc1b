"""`python -m oban_sa bench`: how fast jobs go through this database, from this machine, and what bounds it."""

from __future__ import annotations

import asyncio
import platform
import secrets
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.schema import CreateSchema, DropSchema

from oban_sa import clock, telemetry
from oban_sa.cli._connecting import database_options, json_option
from oban_sa.cli._floor import Floor
from oban_sa.cli._printing import document, table
from oban_sa.cli._refusals import refused
from oban_sa.client import Oban
from oban_sa.enqueueing import enqueue_many
from oban_sa.errors import RunnerError
from oban_sa.migrations import migrate
from oban_sa.models import Job, schema_map
from oban_sa.runner import Runner
from oban_sa.runner.command import service
from oban_sa.runner.engine import create_engine
from oban_sa.settings import Settings
from oban_sa.workers import Registry
from oban_sa.workers.function import job

HELP = """Measure how fast jobs go through this database, from this machine and in one process.

\b
  drain               a runner fetches, runs and completes all of them; the jobs do nothing
  insert by COPY      Oban.enqueue_many, in one transaction
  insert in sessions  enqueue_many(session, ...), in transactions of 1,000 jobs
  insert one by one   a transaction of its own for each job
  commit to start     milliseconds from asking for a job's commit until its code runs, on an idle runner

Each is shown beside the floor: what the driver alone does with the same table, in the same batches and with nothing
in between. The floor is what this database gives; what is missing from it is the price of all that a runner does.

It works in a schema of its own, which is dropped at the end; nothing else in the database is touched. It takes less
than a minute, and keeps the database as busy as it can meanwhile: where it serves others, choose the hour. Run it
where your runners run, since most of what is measured is the way to the database and its disk.

\b
Examples:
  python -m oban_sa bench
  python -m oban_sa bench --jobs 100000 --limit 200 --json
"""

BATCH: Final = 1_000
ONE_BY_ONE: Final = 500
ROUND_TRIPS: Final = 100
WITHIN: Final = 10.0
"""Seconds after which writing one by one is enough, however few were written."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing that was measured, with us and by the driver alone."""

    name: str
    what: str
    jobs: int
    seconds: float
    floor: float

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was found; spans are seconds, and sorted."""

    server: str
    round_trips: list[float]
    commits: list[float]
    figures: list[Figure]
    waits: list[float]


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
        found = service.run(_measured(settings, url, jobs, limit, quiet=as_json))
    waits = {f"p{part}": _part(found.waits, part) for part in (50, 95, 99)}
    if as_json:
        document(
            {
                "server": found.server,
                "python": platform.python_version(),
                "jobs": jobs,
                "limit": limit,
                "round_trip_ms": round(statistics.median(found.round_trips) * 1000, 3),
                "commit_ms": round(statistics.median(found.commits) * 1000, 3),
                "rates": {figure.name: round(figure.rate, 1) for figure in found.figures},
                "floor": {figure.name: round(figure.floor, 1) for figure in found.figures},
                "commit_to_start_ms": {name: round(value * 1000, 2) for name, value in waits.items()},
            }
        )
        return
    click.echo(f"PostgreSQL {found.server}, Python {platform.python_version()}, one process, jobs that do nothing\n")
    rows = [
        (
            each.name.replace("_", " "),
            f"{each.rate:,.0f} jobs/s",
            f"{each.floor:,.0f}",
            f"{each.rate / each.floor:.2f}",
            f"{each.jobs:,}",
            each.what,
        )
        for each in found.figures
    ]
    columns = ("measured", "rate", "floor", "ratio", "jobs", "what")
    table(columns, rows, right=("rate", "floor", "ratio", "jobs"), wide="what")
    shown = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in waits.items())
    click.echo(f"\nFrom commit to start, on an idle runner: {shown}  ({len(found.waits)} jobs, one after another)")
    for line in _meaning(found, limit):
        click.echo(f"\n{line}")


def _meaning(found: Measured, limit: int) -> list[str]:
    """What bounds these figures, in sentences."""
    trip, commit = statistics.median(found.round_trips) * 1000, statistics.median(found.commits) * 1000
    drain = next(each for each in found.figures if each.name == "drain")
    brought = limit * 100
    bound = "which one process can bring" if brought < drain.rate else f"of which one process brings {drain.rate:,.0f}"
    first = (
        f"A round trip to the database takes {trip:.2f} ms, and a commit {max(0.0, commit - trip):.2f} ms more. A "
        "transaction takes several of the first and one of the second, whoever writes it; jobs that are written "
        "together share them."
    )
    second = (
        f"A job that does nothing takes {1e6 / drain.rate:,.0f} us, the floor {1e6 / drain.floor:,.0f} us. That is "
        f"what a job costs beside its own work: with 10 ms of work each, {limit} at once are {brought:,} jobs a "
        f"second, {bound}."
    )
    lines = [first, second]
    if trip > 2:
        lines.append(
            f"The database is far away. With {limit} jobs at once, each batch waits {trip:.0f} ms for its answer: a "
            "higher limit makes batches larger, and a runner in the database's own network waits less."
        )
    if commit - trip > 5:
        lines.append(
            "Commits wait long for the disk. Jobs that are written in the transaction of your own data cost no commit "
            "of their own."
        )
    return lines


async def _measured(settings: Settings, url: str, jobs: int, limit: int, *, quiet: bool) -> Measured:
    def say(what: str) -> None:
        if not quiet:
            click.echo(f"  {what} ...", err=True)

    made = create_engine(url, application_name="oban_sa bench", connections=limit, pooler=settings.pooler)
    try:
        async with _schema(made) as (schema, server), made.connect() as connection:
            mapped = made.execution_options(schema_translate_map=schema_map(schema))
            floor = await Floor.of(connection, schema)
            bench = _Bench(mapped, schema, limit, floor, listen_url=settings.listen_url)
            say("the way to the database and back")
            round_trips, commits = await floor.round_trips(ROUND_TRIPS), await floor.commits(ROUND_TRIPS)
            figures: list[Figure] = []
            for what, measured in (
                ("writing jobs by COPY", bench.by_copy),
                ("draining jobs", bench.drain),
                ("writing jobs in sessions", bench.in_sessions),
                ("writing jobs one by one", bench.one_by_one),
            ):
                say(what)
                figures.append(await measured(jobs))
            say("from commit to start")
            await floor.empty()
            figures.sort(key=lambda figure: figure.name != "drain")
            return Measured(server, round_trips, commits, figures, sorted(await bench.waits(ROUND_TRIPS)))
    except Exception as error:
        if known := refused(error, url):
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
    """Jobs that do nothing, put in and taken out in several ways, each in turn with the floor."""

    def __init__(self, engine: AsyncEngine, schema: str, limit: int, floor: Floor, *, listen_url: str | None) -> None:
        self._engine = engine
        self._schema = schema
        self._limit = limit
        self._floor = floor
        self._listen_url = listen_url
        self._oban = Oban(engine, schema=schema)
        self._registry = Registry()
        self._started: Callable[[], None] = lambda: None

        @job(name="bench.nothing", registry=self._registry)
        async def nothing(number: int) -> None:
            self._started()

    async def by_copy(self, jobs: int) -> Figure:
        args = [_args(number) for number in range(jobs)]
        floor = await self._timed(lambda: self._floor.by_copy(args))
        ours = await self._timed(lambda: self._oban.enqueue_many(_job(number) for number in range(jobs)))
        return Figure("insert_by_copy", "Oban.enqueue_many, one transaction", jobs, ours, jobs / floor)

    async def in_sessions(self, jobs: int) -> Figure:
        async def written() -> None:
            for first in range(0, jobs, BATCH):
                await self._stored([_job(number) for number in range(first, min(first + BATCH, jobs))])

        async def bare() -> None:
            for first in range(0, jobs, BATCH):
                await self._floor.at_once([_args(number) for number in range(first, min(first + BATCH, jobs))])

        floor = await self._timed(bare)
        taken = await self._timed(written)
        return Figure("insert_in_sessions", f"{BATCH:,} to a transaction", jobs, taken, jobs / floor)

    async def one_by_one(self, jobs: int) -> Figure:
        wanted = min(jobs, ONE_BY_ONE)
        count, taken = await self._repeated(wanted, lambda number: self._floor.one(_args(number)))
        floor = count / taken
        count, taken = await self._repeated(wanted, lambda number: self._stored([_job(number)]))
        return Figure("insert_one_by_one", "a transaction for each", count, taken, floor)

    async def drain(self, jobs: int) -> Figure:
        await self._filled(jobs)
        began = clock.monotonic()
        await self._floor.drain(self._limit)
        floor = clock.monotonic() - began
        await self._complete(jobs)
        await self._filled(jobs)
        taken = await self._drained()
        await self._complete(jobs)
        return Figure("drain", f"a runner, {self._limit} at once", jobs, taken, jobs / floor)

    async def _complete(self, jobs: int) -> None:
        if (found := await self._floor.completed()) != jobs:
            raise RunnerError(f"{found:,} of {jobs:,} jobs were completed by their first attempt; nothing is counted")

    async def _filled(self, jobs: int) -> None:
        await self._floor.empty()
        await self._floor.by_copy([_args(number) for number in range(jobs)])
        await self._floor.settle()

    async def _drained(self) -> float:
        """Seconds from the first fetch until the last outcome was written."""
        began = ended = 0.0

        def fetched(event: telemetry.ProducerFetch) -> None:
            nonlocal began
            began = began or clock.monotonic() - event.duration

        def acked(event: telemetry.ProducerAck) -> None:
            nonlocal ended
            ended = clock.monotonic()

        detaches = [telemetry.attach(fetched, telemetry.ProducerFetch), telemetry.attach(acked, telemetry.ProducerAck)]
        try:
            await self._runner().run(until_idle=True)
        finally:
            for detach in detaches:
                detach()
        return ended - began

    async def _timed(self, measured: Callable[[], Awaitable[Any]]) -> float:
        await self._floor.empty()
        began = clock.monotonic()
        await measured()
        return clock.monotonic() - began

    async def _repeated(self, count: int, measured: Callable[[int], Awaitable[Any]]) -> tuple[int, float]:
        """Do something so often, or for as long as is enough; how often, and how long it took."""
        await self._floor.empty()
        began = clock.monotonic()
        done, taken = 0, 0.0
        while done < count and taken < WITHIN:
            await measured(done)
            done += 1
            taken = clock.monotonic() - began
        return done, taken

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


def _part(ordered: list[float], part: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * part // 100)]


def _args(number: int) -> str:
    return f'{{"number":{number}}}'


def _job(number: int) -> Job:
    return Job("bench.nothing", args={"number": number})
