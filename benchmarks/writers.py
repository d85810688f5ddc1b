"""How many transactions sessions commit side by side, with announcements and without.

    python -m benchmarks.writers [--writers 16] [--seconds 3]

Each transaction writes a row of the application's and a job. A transaction that notifies holds a lock of the whole
database's while its commit waits for the disk, so that commits which could have shared one wait wait one by one. Off
and on are measured in turns, with a flush before the commit and without; the floor is bare asyncpg that notifies in
every transaction, or in none. Somebody listens all the while, as a runner would.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks import floor
from benchmarks.ground import Ground, main, parser, table, watch
from oban_sa import Job, enqueue, worker
from oban_sa.outbox.announcements import ANNOUNCE
from oban_sa.workers import Registry


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "bench_orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


@worker(queue="bench", registry=Registry(), name="benchmarks.send")
class Send:
    async def process(self, job: Job) -> None: ...


CHANNEL = "public.oban_insert"


@dataclass(frozen=True)
class Taken:
    """What a round gave: commits per second, notifications per commit, and this process's CPU per commit."""

    rate: float
    told: float
    cpu: float


Commit = Callable[[], Awaitable[None]]


async def through_sessions(engine: AsyncEngine, *, announce: bool, flush: bool = False) -> Commit:
    """Commit through a session of its own each time, as an application does for each request; or flush first."""
    sessions = async_sessionmaker(engine.execution_options(**{ANNOUNCE: announce}), expire_on_commit=False)

    async def commit() -> None:
        async with sessions.begin() as session:
            session.add(Order(note="n"))
            enqueue(session, Send.new({"user_id": 1}))  # type: ignore[attr-defined]
            if flush:
                await session.flush()

    return commit


async def through_connection(ground: Ground, *, announce: bool) -> Commit:
    """Commit on a connection of its own, with nothing between us and the driver."""
    connection = await ground.connect()

    async def commit() -> None:
        async with connection.transaction():
            await connection.fetchval("INSERT INTO bench_orders (note) VALUES ($1) RETURNING id", "n")
            await connection.fetchval(floor.ONE, "benchmarks.send", '{"user_id":1}')
            if announce:
                await connection.fetchval("SELECT pg_notify($1, $2)", CHANNEL, '{"queue":"bench"}')

    return commit


async def round_of(ground: Ground, commits: list[Commit], seconds: float) -> Taken:
    """Let all writers commit for so long."""
    done = heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    async def write(commit: Commit) -> None:
        nonlocal done
        while loop.time() < end:
            await commit()
            done += 1

    listening = await ground.connect()
    await listening.add_listener(CHANNEL, hear)
    loop = asyncio.get_running_loop()
    for commit in commits:
        await commit()  # connections and plans are made before anything is counted
    end = loop.time() + seconds
    with watch() as spent:
        await asyncio.gather(*(write(commit) for commit in commits))
    await listening.execute("SELECT 1")
    await listening.close()
    return Taken(done / spent[0].seconds, heard / done, spent[0].cpu / done * 1e6)


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    engine = create_async_engine(ground.engine.url, pool_size=options.writers, max_overflow=0)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    writers = range(options.writers)
    kinds: dict[str, list[Commit]] = {
        "floor, silent": [await through_connection(ground, announce=False) for _ in writers],
        "floor, notifying": [await through_connection(ground, announce=True) for _ in writers],
        "sessions, silent": [await through_sessions(engine, announce=False) for _ in writers],
        "sessions, announcing": [await through_sessions(engine, announce=True) for _ in writers],
        "flushing, silent": [
            await through_sessions(engine, announce=False, flush=True) for _ in range(options.writers)
        ],
        "flushing, announcing": [await through_sessions(engine, announce=True, flush=True) for _ in writers],
    }
    taken: dict[str, list[Taken]] = {kind: [] for kind in kinds}
    await ground.clear()
    for _ in range(options.rounds):
        for kind, commits in kinds.items():
            taken[kind].append(await round_of(ground, commits, options.seconds))
    await engine.dispose()
    rows: list[list[object]] = []
    for silent, loud in (
        ("floor, silent", "floor, notifying"),
        ("sessions, silent", "sessions, announcing"),
        ("flushing, silent", "flushing, announcing"),
    ):
        for kind in (silent, loud):
            # Each against its neighbour in time, since machines drift.
            ratio = statistics.median(
                mine.rate / base.rate for mine, base in zip(taken[kind], taken[silent], strict=True)
            )
            rates, told, cpu = (
                statistics.median(getattr(each, what) for each in taken[kind]) for what in ("rate", "told", "cpu")
            )
            rows.append([kind, rates, ratio, told, cpu])
    print(f"{options.writers} writers, a row and a job per commit, median of {options.rounds}\n")
    table(["", "commits/s", "of the silent", "heard per commit", "Python CPU us/commit"], rows)


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--writers", type=int, default=16)
    options.add_argument("--seconds", type=float, default=3.0, help="how long each round takes")
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()
