"""Limits outside of jobs, held by processes that are killed and stopped."""

from __future__ import annotations

import signal
import time
from bisect import bisect_right
from collections.abc import AsyncIterator
from contextlib import ExitStack

import asyncpg
import pytest

from tests.acceptance.slots_node import HOLDS, LIMIT, RATE
from tests.client.test_slots import WATCH
from tests.support import eventually, forked, plain_url

NODE = ["-m", "tests.acceptance.slots_node"]


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(plain_url(database_url))
    await made.execute(WATCH.replace("HAVING", "HAVING name = 'held' AND"))
    yield made
    await made.close()


async def holders(connection: asyncpg.Connection) -> set[object]:
    found = await connection.fetch("SELECT holder FROM oban_sa_leases WHERE name = 'held' AND taken_at IS NOT NULL")
    return {row["holder"] for row in found}


async def starts(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM starts WHERE name = 'held'"))


async def test_no_limit_is_exceeded_by_processes_that_are_killed(
    database_url: str, connection: asyncpg.Connection
) -> None:
    assert LIMIT == 3  # as WATCH has it
    with ExitStack() as stack:
        living = [stack.enter_context(forked([*NODE, database_url, "short"])) for _ in range(3)]
        for _ in range(3):
            before = await starts(connection)
            await living[-1].says("working")
            await eventually(lambda before=before: exceeds(connection, before + 30), 30)
            living.pop(0).kill()
            living.append(stack.enter_context(forked([*NODE, database_url, "short"])))
    assert await connection.fetch("SELECT * FROM overruns") == []
    at = [
        row["at"].timestamp()
        for row in await connection.fetch("SELECT at FROM starts WHERE name = 'rated' ORDER BY at")
    ]
    windows = [bisect_right(at, start + RATE.span) - n for n, start in enumerate(at)]
    print(f"{await starts(connection)} held, {len(at)} started, {max(windows)} of {RATE.n} in the fullest window")
    assert max(windows) <= RATE.n


async def exceeds(connection: asyncpg.Connection, count: int) -> None:
    assert await starts(connection) > count


async def test_the_slots_of_a_killed_process_come_back(database_url: str, connection: asyncpg.Connection) -> None:
    with forked([*NODE, database_url, "long"]) as first:
        await eventually(lambda: are_held(connection, LIMIT), 30)
        [holder] = await holders(connection)
        with forked([*NODE, database_url, "long"]) as second:
            await second.says("working")
            first.kill()
            died_at = time.monotonic()
            await eventually(lambda: has_gone(connection, holder), HOLDS + 30)
            print(f"came back after {time.monotonic() - died_at:.1f} s")
    assert await connection.fetch("SELECT * FROM overruns") == []


async def are_held(connection: asyncpg.Connection, count: int) -> None:
    found = await connection.fetch("SELECT FROM oban_sa_leases WHERE taken_at IS NOT NULL")
    assert len(found) == count


async def has_gone(connection: asyncpg.Connection, holder: object) -> None:
    """The limit is full again, and by others."""
    await are_held(connection, LIMIT)
    assert holder not in await holders(connection)


async def test_a_process_that_stood_still_learns_that_its_slots_are_lost(
    database_url: str, connection: asyncpg.Connection
) -> None:
    with forked([*NODE, database_url, "long"]) as first:
        await eventually(lambda: are_held(connection, LIMIT), 30)
        [stopped] = await holders(connection)
        with forked([*NODE, database_url, "long"]) as second:
            await second.says("working")
            first.send(signal.SIGSTOP)
            await eventually(lambda: has_gone(connection, stopped), HOLDS + 30)
            first.send(signal.SIGCONT)
            await eventually(lambda: first.stdout.count("lost") == LIMIT, 30)
            assert "lost" not in second.stdout
    assert await connection.fetch("SELECT * FROM overruns") == []
