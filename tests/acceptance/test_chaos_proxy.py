"""The way to PostgreSQL of chaos runs: what it lets through, when, and what each side hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.acceptance.chaos.proxy import Cutting, CuttingProxy, proxied
from tests.support import eventually, plain_url


@pytest.fixture
async def direct(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute("CREATE TABLE arrived (what text)")
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(database_url: str, direct: asyncpg.Connection) -> AsyncIterator[CuttingProxy]:
    async with proxied(database_url) as made:
        yield made


async def connected(proxy: CuttingProxy) -> asyncpg.Connection:
    return await asyncpg.connect(plain_url(proxy.url), ssl=False)


async def arrived(direct: asyncpg.Connection) -> list[str]:
    return [row["what"] for row in await direct.fetch("SELECT what FROM arrived")]


async def gone(direct: asyncpg.Connection) -> None:
    """Wait until the server has ended every other connection, and done what those had said."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    async def alone() -> None:
        assert await direct.fetchval(count) == 0

    await eventually(alone)


@pytest.mark.parametrize(("kind", "there"), [("before", []), ("after", ["x"]), ("late", ["x"])])
async def test_a_statement_whose_connection_is_cut_arrives_or_not(
    proxy: CuttingProxy, direct: asyncpg.Connection, kind: str, there: list[str]
) -> None:
    connection = await connected(proxy)
    proxy.cutting = Cutting((kind,), 1.0, delay=0.2)
    with pytest.raises((OSError, asyncpg.ConnectionDoesNotExistError)):
        await connection.execute("INSERT INTO arrived VALUES ('x')")
    if kind == "late":
        assert await arrived(direct) == []  # its sender knows of the end before it is even sent on
    await gone(direct)
    assert await arrived(direct) == there
    assert proxy.cuts[kind] == 1


async def test_only_the_statements_asked_for_are_cut(proxy: CuttingProxy, direct: asyncpg.Connection) -> None:
    connection = await connected(proxy)
    proxy.cutting = Cutting(("before",), 1.0, only=b"'y'")
    await connection.execute("INSERT INTO arrived VALUES ('x')")
    with pytest.raises((OSError, asyncpg.ConnectionDoesNotExistError)):
        await connection.execute("INSERT INTO arrived VALUES ('y')")
    await gone(direct)
    assert await arrived(direct) == ["x"]


@pytest.mark.parametrize(("way", "there"), [("up", []), ("down", ["x"])])
async def test_a_stalled_way_holds_what_is_said_until_it_is_released(
    proxy: CuttingProxy, direct: asyncpg.Connection, way: str, there: list[str]
) -> None:
    connection = await connected(proxy)
    proxy.stall(way)
    saying = asyncio.create_task(connection.execute("INSERT INTO arrived VALUES ('x')"))

    async def as_said() -> None:
        assert await arrived(direct) == there

    await eventually(as_said)
    assert not saying.done()
    proxy.release()
    assert await saying == "INSERT 0 1"
    assert await arrived(direct) == ["x"]
    await connection.close()


async def test_all_connections_are_dropped_at_once_and_new_ones_can_be_made(proxy: CuttingProxy) -> None:
    connections = [await connected(proxy) for _ in range(3)]
    assert len(proxy.ports()) == 3
    assert proxy.drop_all() == 3
    for connection in connections:
        with pytest.raises((OSError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
            await connection.execute("SELECT 1")
    again = await connected(proxy)
    assert await again.fetchval("SELECT 1") == 1
    await again.close()
