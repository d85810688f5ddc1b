"""Exactly once, while runners are killed every second and PostgreSQL is restarted and crashes.

`OBAN_TEST_LEDGER` is how many jobs each test has; few by default, so that every run can afford them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from oban_sa import Job, enqueue_many
from tests.acceptance import ledger_jobs
from tests.acceptance.ledger_jobs import DEPTH, Entry, EntryInThread, Link
from tests.ownserver import OwnServer
from tests.support import Process, forked, plain_url

COUNT: Final = int(os.environ.get("OBAN_TEST_LEDGER", "300"))

FLAGS: Final = (
    *("--queues", "default:8", "--heartbeat-every", "0.5", "--dead-after", "2", "--grace", "1"),
    *("--log-level", "warning", "--prune", "never", "--import", "tests.acceptance.ledger_jobs"),
)

PATIENCE: Final = 120 + COUNT / 4
"""Seconds after which jobs count as stuck."""

pytestmark = pytest.mark.chaos


@dataclass
class Herd:
    """Three runners; one that ends, or is stopped, is replaced at once."""

    start: Callable[[], Process]
    living: list[Process] = field(default_factory=list)
    dead: list[Process] = field(default_factory=list)
    paused: list[Process] = field(default_factory=list)
    woken: int = 0

    def fill(self) -> None:
        while len(self.living) < 3:
            self.living.append(self.start())

    def turn(self, number: int) -> None:
        """Kill one; now and then stop one for long enough that it counts as dead, and let it go on with what it did."""
        if number % 6 == 0 and not self.paused and (working := self.working()):
            working[-1].send(signal.SIGSTOP)
            self.living.remove(working[-1])
            self.paused.append(working[-1])
            self.fill()
            return
        if number % 6 == 5 and self.paused:
            self.living.append(self.paused.pop())
            self.living[-1].send(signal.SIGCONT)
            self.woken += 1
        self.kill()

    async def end(self) -> None:
        """Stop all that live, so that nobody writes any more."""
        for each in self.living:
            each.terminate()
        for each in self.living:
            assert await each.ended(60) in (0, -signal.SIGTERM), each.output  # the latter where it was just starting

    def working(self) -> list[Process]:
        return [each for each in self.living if "started" in each.stdout]

    def kill(self) -> None:
        """Kill whichever has been working for longest, unless it is the only one: starting may take long."""
        for each in [each for each in self.living if each.returncode is not None]:
            # Nothing ends one that works. One that starts needs a database, and says so.
            assert each.returncode == 1, each.output
            assert "started" not in each.stdout, each.output
            assert "can't connect to" in each.stderr, each.output
            self.living.remove(each)
        working = self.working()
        if len(working) > 1:
            working[0].kill()
            self.living.remove(working[0])
            self.dead.append(working[0])
        self.fill()


@pytest.fixture
def herd(own_server: OwnServer) -> Iterator[Herd]:
    with ExitStack() as stack:

        def start() -> Process:
            words = ["-m", "oban_sa.runner", "--database-url", plain_url(own_server.url), *FLAGS]
            return stack.enter_context(forked(words))

        yield Herd(start)


@pytest.fixture
async def engine(own_server: OwnServer) -> AsyncIterator[AsyncEngine]:
    """Reaches the server that is killed, before and after."""
    made = create_async_engine(own_server.url, pool_pre_ping=True)
    async with made.begin() as connection:
        for statement in ledger_jobs.TABLES:
            await connection.execute(text(statement))
    yield made
    await made.dispose()


async def ask(engine: AsyncEngine, statement: str) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(text(statement))).all())


async def put(engine: AsyncEngine, *jobs: Job) -> None:
    async with async_sessionmaker(engine).begin() as session:
        enqueue_many(session, jobs)


async def storm(engine: AsyncEngine, server: OwnServer, herd: Herd, total: int) -> None:
    """Kill a runner every second until `total` jobs are completed; meanwhile the server stops once and crashes once."""
    outages = [(total // 3, server.stop), (2 * total // 3, server.kill)]
    began = time.monotonic()
    herd.fill()
    done = 0
    turn = 0
    while done < total or herd.paused:
        if time.monotonic() - began > PATIENCE:
            raise AssertionError(
                f"{total - done} jobs are stuck: {await stuck(engine)}\n{herd.living[0].output[-5000:]}"
            )
        await asyncio.sleep(1)
        turn += 1
        herd.turn(turn)
        if outages and done >= outages[0][0]:
            await asyncio.to_thread(outages.pop(0)[1])
            await asyncio.sleep(1)
            herd.kill()
            await asyncio.to_thread(server.start)
        if os.environ.get("OBAN_TEST_LEDGER"):
            print(f"{time.monotonic() - began:.0f} s: {done} jobs done, {len(herd.dead)} runners killed", flush=True)
        try:
            [(done,)] = await ask(engine, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'")
        except (DBAPIError, OSError):
            continue  # it is still recovering
    assert outages == []
    await herd.end()
    took = time.monotonic() - began
    print(f"{total} jobs in {took:.0f} s with {len(herd.dead)} runners killed, {herd.woken} paused, 2 restarts")


async def stuck(engine: AsyncEngine) -> list[Any]:
    return await ask(
        engine,
        "SELECT id, state, attempt, scheduled_at, attempted_at, errors[array_length(errors, 1)]->>'error' "
        "FROM oban_jobs WHERE state <> 'completed' ORDER BY id LIMIT 20",
    )


async def test_every_job_leaves_one_row_and_one_count_whoever_is_killed(
    own_server: OwnServer, engine: AsyncEngine, herd: Herd
) -> None:
    await put(engine, *((Entry, EntryInThread)[n % 2].new() for n in range(COUNT)))
    await storm(engine, own_server, herd, COUNT)
    assert await ask(engine, "SELECT job_id FROM ledger GROUP BY 1 HAVING count(*) > 1") == []
    assert await ask(engine, "SELECT count(*) FROM ledger") == [(COUNT,)]
    assert await ask(engine, "SELECT value FROM counter") == [(COUNT,)]
    assert await ask(engine, "SELECT state::text, count(*) FROM oban_jobs GROUP BY 1") == [("completed", COUNT)]
    await bitten(engine, herd)


async def test_a_chain_of_jobs_goes_on_by_exactly_one_link_at_a_time(
    own_server: OwnServer, engine: AsyncEngine, herd: Herd
) -> None:
    chains = COUNT // DEPTH
    await put(engine, *(Link.new({"chain": chain, "link": 1}) for chain in range(chains)))
    await storm(engine, own_server, herd, chains * DEPTH)
    assert await ask(engine, "SELECT chain, link FROM links GROUP BY 1, 2 HAVING count(*) > 1") == []
    assert await ask(engine, "SELECT link, count(*) FROM links GROUP BY 1 ORDER BY 1") == [
        (link, chains) for link in range(1, DEPTH + 1)
    ]
    rows = await ask(engine, "SELECT state::text, count(*) FROM oban_jobs GROUP BY 1")
    assert rows == [("completed", chains * DEPTH)]
    await bitten(engine, herd)


async def bitten(engine: AsyncEngine, herd: Herd) -> None:
    """See that the storm was one: attempts were cut short by it, and by the death of their runners."""
    assert len(herd.dead) >= 3
    [(again, orphaned)] = await ask(
        engine,
        "SELECT count(*) FILTER (WHERE attempt > 1), count(*) FILTER (WHERE errors::text LIKE '%AttemptOrphaned%') "
        "FROM oban_jobs",
    )
    print(f"{again} jobs were started more than once, {orphaned} of them after the death of a runner")
    assert orphaned > 0
