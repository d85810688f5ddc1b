"""A runner that reached its database once starts whatever happens to the database meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from oban_sa import Runner, job, telemetry
from oban_sa.errors import RunnerError
from oban_sa.jobs import backoff
from oban_sa.runner.database.engine import create_engine, dispose
from oban_sa.runner.database.start_steps import copied, reached, watch
from tests.proxy import CountingProxy, open_proxy
from tests.runner.conftest import Harness
from tests.support import plain_url

HANDSHAKE = 3
"""Chunks that a client sends until the server has accepted it: who it is, and a password in two steps."""


def through(proxy: CountingProxy, role: str | None = None) -> AsyncEngine:
    url = make_url(plain_url(proxy.url))
    if role is not None:
        url = url.set(username=role, password="x")
    return create_engine(url.render_as_string(hide_password=False) + "?sslmode=disable")


@pytest.fixture
async def role(database_url: str) -> AsyncIterator[str]:
    """A role that has to say its password; the tests' own need not."""
    connection = await asyncpg.connect(plain_url(database_url))
    name = f"start_{make_url(database_url).database}"
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again without much of a pause."""
    monkeypatch.setattr(backoff, "retrying", lambda failures: 0.01)


@pytest.mark.parametrize("own_sessions", [False, True])
async def test_a_runner_starts_wherever_in_its_start_the_database_is_cut_off(
    harness: Harness, database_url: str, of, caplog: pytest.LogCaptureFixture, own_sessions: bool
) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    options = {**harness.options, "queues": {"default": 2, "other": 1}, "registry": harness.registry}
    cut_off = True
    # Every fourth place of about eighty, others with sessions than without.
    number = HANDSHAKE - 3 if own_sessions else HANDSHAKE - 1
    while cut_off:
        number += 4
        [job_id] = await harness.enqueue(nothing.new())
        async with open_proxy(CountingProxy(database_url)) as proxy:
            engine, theirs = through(proxy), through(proxy)
            proxy.cut_at, proxy.refuse_after_cut = number, 3
            more = {"sessions": async_sessionmaker(theirs)} if own_sessions else {}
            async with Runner(engine, **options, **more):
                cut_off = proxy.cut_at is None
                await harness.becomes(job_id, "completed")
            await dispose(engine)
            await dispose(theirs)
    assert number > HANDSHAKE + 30
    assert {event.part for event in of(telemetry.RunnerRetry)} >= {"start"}
    assert "the database went away while the runner starts" in caplog.text


@pytest.mark.parametrize("number", range(1, HANDSHAKE + 1))
async def test_a_database_that_was_never_reached_is_not_waited_for(database_url: str, role: str, number: int) -> None:
    async with open_proxy(CountingProxy(database_url)) as proxy:
        engine = through(proxy, role)
        proxy.cut_at, proxy.refuse_after_cut = number, 1000
        with pytest.raises(Exception) as caught:
            await Runner(engine, queues={"default": 1}).run()
        assert not isinstance(caught.value, TimeoutError)
        await dispose(engine)


async def test_a_runner_told_to_stop_while_its_database_is_away_does_not_start(database_url: str, of) -> None:
    async with open_proxy(CountingProxy(database_url)) as proxy:
        engine = through(proxy)
        proxy.cut_at, proxy.refuse_after_cut = 20, 10**9
        runner = Runner(engine, queues={"default": 1})
        detach = telemetry.attach(lambda event: runner.stop(), telemetry.RunnerRetry)
        async with asyncio.timeout(20):
            await runner.run()
        detach()
        assert of(telemetry.RunnerStart) == []
        await dispose(engine)


@pytest.mark.parametrize("chunks", [2, 12, 20, 25])
async def test_a_runner_told_to_stop_while_its_database_is_silent_ends(database_url: str, of, chunks: int) -> None:
    async with open_proxy(CountingProxy(database_url)) as proxy:
        engine = through(proxy)
        proxy.freeze_at = chunks
        runner = Runner(engine, queues={"default": 1})
        running = asyncio.create_task(runner.run())
        await proxy.frozen.wait()
        runner.stop()
        await asyncio.wait_for(running, 30)
        await dispose(engine)


async def test_sessions_that_were_never_reached_are_a_mistake_though_the_runner_was(harness: Harness) -> None:
    elsewhere = create_engine("postgresql://nobody:wrong@127.0.0.1:1/none")
    with pytest.raises(RunnerError, match="can't be used"):
        await Runner(
            harness.engine, queues={"default": 1}, sessions=async_sessionmaker(elsewhere), registry=harness.registry
        ).run()


async def test_a_copy_of_a_pool_counts_as_reached_where_the_pool_was(database_url: str) -> None:
    engine = create_engine(plain_url(database_url))
    watch(engine.pool)
    assert not reached(copied(engine.pool))
    async with engine.connect():
        pass
    assert reached(copied(engine.pool))
    await dispose(engine)
