"""The database that is measured on, and how figures are taken and shown."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks import gauges
from oban_sa import embedded
from oban_sa.errors import EmbeddedError
from oban_sa.migrations import migrate

SIZES = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
"""Durability stays as PostgreSQL has it: every commit waits for the disk."""
SETTINGS = {**SIZES, **gauges.SETTINGS}


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
    folder = Path(".oban") / "benchmarks"
    with ExitStack() as stack:
        try:
            running = stack.enter_context(embedded.start(folder, settings=SETTINGS))
        except EmbeddedError:  # its PostgreSQL may have been installed without extensions
            running = stack.enter_context(embedded.start(folder, settings=SIZES))
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

    async def clear(self) -> None:
        """Empty the table, and bring its statistics up to date."""
        connection = await self.connect()
        await connection.execute("TRUNCATE oban_jobs RESTART IDENTITY")
        await connection.execute("VACUUM ANALYZE oban_jobs", timeout=300)
        await connection.execute("CHECKPOINT")
        await connection.close()


@asynccontextmanager
async def ground(server_url: str) -> AsyncIterator[Ground]:
    """A database of our own on the server, dropped at the end."""
    name = f"oban_bench_{secrets.token_hex(4)}"
    admin = await asyncpg.connect(server_url)
    await admin.execute(f"CREATE DATABASE {name}")
    url = make_url(server_url).set(database=name)
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    try:
        await migrated(url.render_as_string(hide_password=False))
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
