"""Open pages are told of changes by one poller, which runs only while there are some."""

from __future__ import annotations

import asyncio

import pytest

from oban_sa import Job
from oban_sa.web import live
from oban_sa.web.live import Live, events
from tests.support import eventually
from tests.web.conftest import Web


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EVERY", 0.01)
    monkeypatch.setattr(live, "AT_LEAST", 1_000.0)
    monkeypatch.setattr(live, "SHARE", 1)


async def test_one_poller_tells_all_viewers_and_stops_with_the_last(web: Web) -> None:
    watched = Live(web.dashboard.instances[0].reader)
    assert not watched.running
    one, two = watched.watch(), watched.watch()
    first, second = asyncio.ensure_future(anext(one)), asyncio.ensure_future(anext(two))
    await eventually(lambda: watched.looks >= 2)
    assert watched.viewers == 2
    assert not first.done()
    await web.add(Job("shop.Mail"))
    assert await asyncio.wait_for(first, 10) == await asyncio.wait_for(second, 10) == 1
    await one.aclose()
    assert watched.running
    await two.aclose()
    assert (watched.viewers, watched.running) == (0, False)
    looks = watched.looks
    third = watched.watch()
    waiting = asyncio.ensure_future(anext(third))
    await eventually(lambda: watched.looks > looks)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await third.aclose()
    assert not watched.running


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE oban_jobs SET state = 'executing', attempt = 1",
        "UPDATE oban_jobs SET state = 'completed', completed_at = now()",
        "DELETE FROM oban_jobs",
        "INSERT INTO oban_producers (uuid, node, queue) VALUES (gen_random_uuid(), 'web.1', 'default')",
        "INSERT INTO oban_sa_queues (name, updated_at) VALUES ('mailers', now() + interval '1 minute')",
        "INSERT INTO oban_sa_crons (name, expression, worker, last_at) VALUES ('a', '@daily', 'b', now())",
    ],
)
async def test_each_kind_of_change_is_told(web: Web, change: str) -> None:
    await web.add(Job("shop.Mail"))
    watched = Live(web.dashboard.instances[0].reader)
    watch = watched.watch()
    told = asyncio.ensure_future(anext(watch))
    await eventually(lambda: watched.looks >= 2)
    await web.sql(change)
    assert await asyncio.wait_for(told, 10) == 1
    await watch.aclose()


async def test_a_database_that_is_away_ends_no_page(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SLOWEST", 0.02)
    watched = Live(web.dashboard.instances[0].reader)
    real = watched._look
    broken = True

    async def look() -> object:
        if broken:
            watched.looks += 1
            raise OSError("away")
        return await real()

    monkeypatch.setattr(watched, "_look", look)
    watch = watched.watch()
    told = asyncio.ensure_future(anext(watch))
    await eventually(lambda: watched.looks >= 2)
    broken = False
    looks = watched.looks
    await eventually(lambda: watched.looks > looks + 1)
    await web.add(Job("shop.Mail"))
    assert await asyncio.wait_for(told, 10) == 1
    await watch.aclose()


async def test_events_begin_with_hello_and_keep_the_connection_alive(web: Web) -> None:
    watched = Live(web.dashboard.instances[0].reader)
    stream = events(watched, every=0.02)
    assert b"event: hello" in await anext(stream)
    assert await anext(stream) == b": still here\n\n"
    await eventually(lambda: watched.looks >= 2)  # what is there before the first look is no change
    await web.add(Job("shop.Mail"))
    async with asyncio.timeout(60):
        while (found := await anext(stream)).startswith(b":"):
            pass
    assert found == b"event: pulse\ndata: 1\n\n"
    await stream.aclose()
    assert not watched.running
