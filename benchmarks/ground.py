"""The database that is measured on, and how figures are taken and shown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import embedded
from oban_sa.migrations import migrate

SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
"""Durability stays as PostgreSQL has it: every commit waits for the disk."""


def parser(what: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    options = argparse.ArgumentParser(description=what)
    options.add_argument("--database-url", help="a server to make a database on; else a private, durable PostgreSQL")
    options.add_argument("--rounds", type=int, default=3, help="how often each is measured; medians are shown")
    options.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="uvloop where it is installed")
    return options


def main(
    options: argparse.Namespace, measure: Callable[[Ground, argparse.Namespace], Coroutine[Any, Any, None]]
) -> None:
    """Measure on a database of our own, which is dropped afterwards."""

    async def run(url: str) -> None:
        async with ground(url) as made:
            await measure(made, options)

    with server(options.database_url) as url, asyncio.Runner(loop_factory=_loop_factory(options.loop)) as runner:
        runner.run(run(url))


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The server's URL: the given one's, or that of a private one in `.oban/benchmarks`."""
    if url is not None:
        yield make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        return
    with embedded.start(Path(".oban") / "benchmarks", settings=SETTINGS) as running:
        yield running.url


async def migrated(url: str) -> None:
    """Make our tables in a database."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.connect() as connection:
        await connection.run_sync(migrate, "public")
        await connection.commit()
    await engine.dispose()


@dataclass(frozen=True)
class Ground:
    """A fresh database with our tables."""

    url: str
    engine: AsyncEngine

    async def connect(self) -> asyncpg.Connection:
        """A connection with nothing between us and the driver."""
        return await asyncpg.connect(self.url)

    async def clear(self, *, finished: int = 0) -> None:
        """Empty the table, but for rows of finished jobs."""
        connection = await self.connect()
        await connection.execute("TRUNCATE oban_jobs RESTART IDENTITY")
        if finished:
            await connection.execute(
                """INSERT INTO oban_jobs (state, queue, worker, args, attempt, attempted_at, completed_at, attempted_by)
                   SELECT 'completed', 'bench', 'benchmarks.finished', jsonb_build_object('n', n), 1,
                          now() - interval '1 day', now() - interval '1 day', '{someone,else}'
                   FROM generate_series(1, $1::int) n""",
                finished,
                timeout=300,
            )
        await connection.execute("VACUUM ANALYZE oban_jobs", timeout=300)
        await connection.execute("CHECKPOINT")
        await connection.close()

    async def settle(self) -> None:
        """Bring the table's statistics up to date, and what is dirty to disk, so that no measure pays for another's."""
        connection = await self.connect()
        await connection.execute("VACUUM ANALYZE oban_jobs", timeout=300)
        await connection.execute("CHECKPOINT")
        await connection.close()
        gc.collect()

    async def check(self, *, completed: int, but: int = 0) -> None:
        """Refuse the figure where not every job was completed by its first attempt."""
        connection = await self.connect()
        rows = await connection.fetch("SELECT state::text, attempt, count(*) FROM oban_jobs GROUP BY 1, 2")
        await connection.close()
        found = {(row[0], row[1]): row[2] for row in rows}
        if found != {("completed", 1): completed + but}:
            raise SystemExit(f"not what was to be measured: {found} instead of {completed + but} completed jobs")


@asynccontextmanager
async def ground(server_url: str, *, migrated: bool = True) -> AsyncIterator[Ground]:
    """A database of its own on the server, dropped at the end."""
    name = f"oban_bench_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"CREATE DATABASE {name}")
    url = make_url(server_url).set(database=name)
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    try:
        if migrated:
            async with engine.connect() as connection:
                await connection.run_sync(migrate, "public")
                await connection.commit()
        yield Ground(url.render_as_string(hide_password=False), engine)
    finally:
        await engine.dispose()
        with contextlib.suppress(asyncpg.PostgresError):
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


@dataclass(frozen=True)
class Spent:
    """Seconds by the clock, and seconds of this process's CPU."""

    seconds: float
    cpu: float


@contextmanager
def watch() -> Iterator[list[Spent]]:
    """Measure a block; the one entry of the list is there after it."""
    spent: list[Spent] = []
    cpu, started = time.process_time(), time.perf_counter()
    yield spent
    spent.append(Spent(time.perf_counter() - started, time.process_time() - cpu))


def rate(count: int, spents: Iterable[Spent]) -> float:
    """Jobs per second, the median."""
    return statistics.median(count / spent.seconds for spent in spents)


def cpu_each(count: int, spents: Iterable[Spent]) -> float:
    """Microseconds of CPU per job, the median."""
    return statistics.median(spent.cpu / count * 1e6 for spent in spents)


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns, the first to the left and the others to the right."""
    texts = [[_text(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    for number, row in enumerate(texts):
        print(
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
        )
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell >= 100 else f"{cell:.2f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            print("uvloop is not installed; measuring with asyncio's own loop", file=sys.stderr)
        else:
            return uvloop.new_event_loop
    return None
