"""A runner that reached its database once starts whatever happens to the database meanwhile."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from oban_sa import Runner, backoff, job, telemetry
from oban_sa.errors import RunnerError
from oban_sa.runner.engine import create_engine, dispose
from tests.proxying import Proxy, proxied
from tests.runner.conftest import House
from tests.support import plain_url

HANDSHAKE = 3
"""Chunks that a client sends until the server has accepted it: who it is, and a password in two steps."""


def through(proxy: Proxy) -> AsyncEngine:
    return create_engine(plain_url(proxy.url) + "?sslmode=disable")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again without much of a pause."""
    monkeypatch.setattr(backoff, "retrying", lambda failures: 0.01)


@pytest.mark.parametrize("own_sessions", [False, True])
async def test_a_runner_starts_wherever_in_its_start_the_database_is_cut_off(
    house: House, database_url: str, of, caplog: pytest.LogCaptureFixture, own_sessions: bool
) -> None:
    @job(name="worker", registry=house.registry)
    async def nothing() -> None: ...

    options = {**house.options, "queues": {"default": 2, "other": 1}, "registry": house.registry}
    cut_off = True
    # Every fourth place of about eighty, others with sessions than without.
    number = HANDSHAKE - 3 if own_sessions else HANDSHAKE - 1
    while cut_off:
        number += 4
        [job_id] = await house.enqueue(nothing.new())
        async with proxied(database_url) as proxy:
            engine, theirs = through(proxy), through(proxy)
            proxy.cut_at, proxy.refuse_after_cut = number, 3
            more = {"sessions": async_sessionmaker(theirs)} if own_sessions else {}
            async with Runner(engine, **options, **more):
                cut_off = proxy.cut_at is None
                await house.becomes(job_id, "completed")
            await dispose(engine)
            await dispose(theirs)
    assert number > HANDSHAKE + 30
    assert {event.part for event in of(telemetry.RunnerRetry)} >= {"start"}
    assert "the database went away while the runner starts" in caplog.text


@pytest.mark.parametrize("number", range(1, HANDSHAKE + 1))
async def test_a_database_that_was_never_reached_is_not_waited_for(database_url: str, number: int) -> None:
    async with proxied(database_url) as proxy:
        engine = through(proxy)
        proxy.cut_at, proxy.refuse_after_cut = number, 1000
        with pytest.raises(Exception) as caught:
            await Runner(engine, queues={"default": 1}).run()
        assert not isinstance(caught.value, TimeoutError)
        await dispose(engine)


async def test_a_runner_told_to_stop_while_its_database_is_away_does_not_start(database_url: str, of) -> None:
    async with proxied(database_url) as proxy:
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
    async with proxied(database_url) as proxy:
        engine = through(proxy)
        proxy.freeze_at = chunks
        runner = Runner(engine, queues={"default": 1})
        running = asyncio.create_task(runner.run())
        await proxy.frozen.wait()
        runner.stop()
        await asyncio.wait_for(running, 30)
        await dispose(engine)


async def test_sessions_that_were_never_reached_are_a_mistake_though_the_runner_was(house: House) -> None:
    elsewhere = create_engine("postgresql://nobody:wrong@127.0.0.1:1/none")
    with pytest.raises(RunnerError, match="can't be used"):
        await Runner(
            house.engine, queues={"default": 1}, sessions=async_sessionmaker(elsewhere), registry=house.registry
        ).run()
