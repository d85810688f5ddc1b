"""Jobs become available when their moment comes, and whoever waits for them hears of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, job, telemetry
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import stager as stagers
from oban_sa.runner.maintenance.beside import Beside
from oban_sa.runner.maintenance.stager import Stager
from oban_sa.wire.messages import news_of
from tests.runner.conftest import Harness
from tests.support import eventually, plain_url

SOURCE = telemetry.Source(node="node")


@pytest.fixture
async def staged() -> list[str]:
    """The queues that the stager has told of."""
    return []


@pytest.fixture
async def stager(harness: Harness, staged: list[str]) -> AsyncIterator[Stager]:
    made = Stager(Database(harness.engine), source=SOURCE, every=60, staged=staged.append)
    yield made
    await made.close()


async def due(harness: Harness, *seconds: float, queue: str = "default", state: str = "scheduled") -> list[int]:
    """Jobs due in so many seconds by the database's clock."""
    ids = await harness.enqueue(*(Job("worker", queue=queue) for _ in seconds))
    for job_id, after in zip(ids, seconds, strict=True):
        await harness.sql(
            "UPDATE oban_jobs SET state = CAST(:state AS oban_job_state), "
            "scheduled_at = timezone('UTC', clock_timestamp()) + :after * interval '1 second' WHERE id = :id",
            state=state,
            after=after,
            id=job_id,
        )
    return ids


async def test_due_jobs_of_every_queue_are_staged_and_others_are_not(
    harness: Harness, stager: Stager, staged: Any
) -> None:
    past = await due(harness, -1, -2, queue="mine")
    retried = await due(harness, -1, queue="elsewhere", state="retryable")
    future = await due(harness, 300, 400)
    over = [(await due(harness, -1, state=state))[0] for state in ("completed", "cancelled", "discarded", "suspended")]
    await stager.tick()
    assert {(await harness.job(job_id)).state for job_id in [*past, *retried]} == {"available"}
    assert {(await harness.job(job_id)).state for job_id in future} == {"scheduled"}
    assert [str((await harness.job(job_id)).state) for job_id in over] == [
        "completed", "cancelled", "discarded", "suspended",
    ]  # fmt: skip
    assert sorted(staged) == ["elsewhere", "mine"]


@pytest.mark.parametrize("state", ["scheduled", "retryable"])
async def test_it_sleeps_until_the_next_job_is_due(harness: Harness, stager: Stager, state: str) -> None:
    await due(harness, -1, 30, 40, state=state)
    rest = await stager.tick()
    assert 20 < rest <= 30.001


async def test_it_sleeps_no_longer_than_it_was_told(harness: Harness, stager: Stager) -> None:
    assert await stager.tick() == 60
    await due(harness, 3600)
    assert await stager.tick() == 60


async def test_it_wakes_to_the_millisecond_and_not_to_the_second(harness: Harness, stager: Stager) -> None:
    await due(harness, 20.25)
    rest = await stager.tick()
    assert 0 < rest <= 20.251
    assert rest != round(rest)


async def test_a_job_that_somebody_holds_does_not_keep_it_busy(harness: Harness, stager: Stager) -> None:
    [held] = await due(harness, -1)
    [free] = await due(harness, -1, queue="other")
    async with harness.engine.begin() as connection:
        from sqlalchemy import text

        await connection.execute(text("SELECT 1 FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert await stager.tick() == 60
        assert (await harness.job(free)).state == "available"
        assert (await harness.job(held)).state == "scheduled"
    await stager.tick()
    assert (await harness.job(held)).state == "available"


async def test_one_statement_stages_announces_and_looks_ahead(harness: Harness, stager: Stager, monkeypatch) -> None:
    sent: list[Any] = []
    fetch = Line.fetch

    async def counting(self: Line, prepared: Any, **values: Any) -> Any:
        sent.append(prepared)
        return await fetch(self, prepared, **values)

    monkeypatch.setattr(Line, "fetch", counting)
    await due(harness, -1, -1, 30)
    assert 20 < await stager.tick() < 31
    assert len(sent) == 1


async def test_each_queue_is_announced_once(harness: Harness, stager: Stager) -> None:
    heard: list[str] = []
    await due(harness, -1, -2, -3, queue="one")
    await due(harness, -1, -2, queue='odd "queue"')
    await due(harness, 300, queue="later")
    connection = await asyncpg.connect(plain_url(harness.engine.url.render_as_string(hide_password=False)))
    await connection.add_listener("public.oban_insert", lambda *args: heard.append(args[3]))
    await stager.tick()
    await eventually(lambda: len(heard) >= 2)
    await connection.fetchval("SELECT 1")
    told = {message["queue"]: news_of(message) for message in map(json.loads, heard)}
    assert {queue: news.jobs for queue, news in told.items()} == {'odd "queue"': 2, "one": 3}
    assert not any(news.due for news in told.values())
    await stager.tick()
    await connection.fetchval("SELECT 1")
    assert len(heard) == 2
    await connection.close()


async def test_more_than_one_batch_is_staged_without_a_rest(harness: Harness, stager: Stager, monkeypatch, of) -> None:
    monkeypatch.setattr(stagers, "LIMIT", 3)
    await due(harness, *[-1.0] * 7)
    assert [await stager.tick(), await stager.tick(), await stager.tick()] == [0, 0, 60]
    assert await harness.states() == {"available": 7}
    assert [event.count for event in of(telemetry.StagerStage)] == [3, 3, 1]


async def test_a_job_due_before_the_stager_would_look_again_is_not_late(harness: Harness) -> None:
    """Polls and looks are a minute apart here, so only exact waking can finish this in time."""
    order: list[int] = []

    @job(registry=harness.registry)
    async def noted(n: int) -> None:
        order.append(n)

    async with harness.runner(stage_every=60, poll_every=60):
        await harness.enqueue(*(noted.options(schedule_in=n / 10).new(n=n) for n in (3, 1, 2)))
        await eventually(lambda: order == [1, 2, 3], 10)


@pytest.mark.parametrize("soon", [True, False])
async def test_a_message_wakes_the_stager_only_where_it_says_that_a_job_is_due_soon(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, soon: bool
) -> None:
    woken: list[int] = []
    stage_soon = Beside.stage_soon

    def watched(self: Beside) -> None:
        woken.append(1)
        stage_soon(self)

    monkeypatch.setattr(Beside, "stage_soon", watched)
    ran: list[int] = []

    @job(registry=harness.registry)
    async def noted(n: int) -> None:
        ran.append(n)

    async with harness.runner(stage_every=60, poll_every=60) as runner:
        await eventually(lambda: runner._notifier.proven)
        assert len(woken) == 1  # what was said before it listened may have been missed
        await harness.enqueue(noted.new(n=1), noted.options(schedule_in=0.1 if soon else 3600).new(n=2))
        await eventually(lambda: ran == ([1, 2] if soon else [1]))
        assert len(woken) == 1 + soon


async def test_two_stagers_stage_each_job_once(harness: Harness, stager: Stager, staged: Any, of) -> None:
    import asyncio

    other = Stager(Database(harness.engine), source=SOURCE, every=60, staged=staged.append)
    await due(harness, *[-1.0] * 50)
    await asyncio.gather(stager.tick(), other.tick())
    assert await harness.states() == {"available": 50}
    assert sum(event.count for event in of(telemetry.StagerStage)) == 50
    await other.close()
