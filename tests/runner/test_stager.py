"""Jobs become available when their moment comes, and whoever waits for them hears of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, job, telemetry
from oban_sa.runner import stager as stagers
from oban_sa.runner.database import Database, Line
from oban_sa.runner.stager import Stager
from tests.runner.conftest import House
from tests.support import eventually, plain_url

SOURCE = telemetry.Source(node="node")


@pytest.fixture
async def staged() -> list[str]:
    """The queues that the stager has told of."""
    return []


@pytest.fixture
async def stager(house: House, staged: list[str]) -> AsyncIterator[Stager]:
    made = Stager(Database(house.engine), source=SOURCE, every=60, staged=staged.append)
    yield made
    await made.close()


async def due(house: House, *seconds: float, queue: str = "default", state: str = "scheduled") -> list[int]:
    """Jobs due in so many seconds by the database's clock."""
    ids = await house.enqueue(*(Job("worker", queue=queue) for _ in seconds))
    for job_id, after in zip(ids, seconds, strict=True):
        await house.sql(
            "UPDATE oban_jobs SET state = CAST(:state AS oban_job_state), "
            "scheduled_at = timezone('UTC', clock_timestamp()) + :after * interval '1 second' WHERE id = :id",
            state=state,
            after=after,
            id=job_id,
        )
    return ids


async def test_due_jobs_of_every_queue_are_staged_and_others_are_not(house: House, stager: Stager, staged: Any) -> None:
    past = await due(house, -1, -2, queue="mine")
    retried = await due(house, -1, queue="elsewhere", state="retryable")
    future = await due(house, 300, 400)
    over = [(await due(house, -1, state=state))[0] for state in ("completed", "cancelled", "discarded", "suspended")]
    await stager.tick()
    assert {(await house.job(job_id)).state for job_id in [*past, *retried]} == {"available"}
    assert {(await house.job(job_id)).state for job_id in future} == {"scheduled"}
    assert [str((await house.job(job_id)).state) for job_id in over] == [
        "completed", "cancelled", "discarded", "suspended",
    ]  # fmt: skip
    assert sorted(staged) == ["elsewhere", "mine"]


@pytest.mark.parametrize("state", ["scheduled", "retryable"])
async def test_it_sleeps_until_the_next_job_is_due(house: House, stager: Stager, state: str) -> None:
    await due(house, -1, 30, 40, state=state)
    rest = await stager.tick()
    assert 20 < rest <= 30.001


async def test_it_sleeps_no_longer_than_it_was_told(house: House, stager: Stager) -> None:
    assert await stager.tick() == 60
    await due(house, 3600)
    assert await stager.tick() == 60


async def test_it_wakes_to_the_millisecond_and_not_to_the_second(house: House, stager: Stager) -> None:
    await due(house, 20.25)
    rest = await stager.tick()
    assert 0 < rest <= 20.251
    assert rest != round(rest)


async def test_a_job_that_somebody_holds_does_not_keep_it_busy(house: House, stager: Stager) -> None:
    [held] = await due(house, -1)
    [free] = await due(house, -1, queue="other")
    async with house.engine.begin() as connection:
        from sqlalchemy import text

        await connection.execute(text("SELECT 1 FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": held})
        assert await stager.tick() == 60
        assert (await house.job(free)).state == "available"
        assert (await house.job(held)).state == "scheduled"
    await stager.tick()
    assert (await house.job(held)).state == "available"


async def test_one_statement_stages_announces_and_looks_ahead(house: House, stager: Stager, monkeypatch) -> None:
    sent: list[Any] = []
    fetch = Line.fetch

    async def counting(self: Line, prepared: Any, **values: Any) -> Any:
        sent.append(prepared)
        return await fetch(self, prepared, **values)

    monkeypatch.setattr(Line, "fetch", counting)
    await due(house, -1, -1, 30)
    assert 20 < await stager.tick() < 31
    assert len(sent) == 1


async def test_each_queue_is_announced_once(house: House, stager: Stager) -> None:
    heard: list[str] = []
    await due(house, -1, -2, -3, queue="one")
    await due(house, -1, -2, queue='odd "queue"')
    await due(house, 300, queue="later")
    connection = await asyncpg.connect(plain_url(house.engine.url.render_as_string(hide_password=False)))
    await connection.add_listener("public.oban_insert", lambda *args: heard.append(args[3]))
    await stager.tick()
    await eventually(lambda: len(heard) >= 2)
    await connection.fetchval("SELECT 1")
    assert sorted(heard) == ['{"queue" : "odd \\"queue\\""}', '{"queue" : "one"}']
    await stager.tick()
    await connection.fetchval("SELECT 1")
    assert len(heard) == 2
    await connection.close()


async def test_more_than_one_batch_is_staged_without_a_rest(house: House, stager: Stager, monkeypatch, of) -> None:
    monkeypatch.setattr(stagers, "LIMIT", 3)
    await due(house, *[-1.0] * 7)
    assert [await stager.tick(), await stager.tick(), await stager.tick()] == [0, 0, 60]
    assert await house.states() == {"available": 7}
    assert [event.count for event in of(telemetry.StagerStage)] == [3, 3, 1]


async def test_a_job_due_before_the_stager_would_look_again_is_not_late(house: House) -> None:
    """Polls and looks are a minute apart here, so only exact waking can finish this in time."""
    order: list[int] = []

    @job(registry=house.registry)
    async def noted(n: int) -> None:
        order.append(n)

    async with house.runner(stage_every=60, poll_every=60):
        await house.enqueue(*(noted.options(schedule_in=n / 10).new(n=n) for n in (3, 1, 2)))
        await eventually(lambda: order == [1, 2, 3], 10)


async def test_two_stagers_stage_each_job_once(house: House, stager: Stager, staged: Any, of) -> None:
    import asyncio

    other = Stager(Database(house.engine), source=SOURCE, every=60, staged=staged.append)
    await due(house, *[-1.0] * 50)
    await asyncio.gather(stager.tick(), other.tick())
    assert await house.states() == {"available": 50}
    assert sum(event.count for event in of(telemetry.StagerStage)) == 50
    await other.close()
