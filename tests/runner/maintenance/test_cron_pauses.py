"""A paused entry of the crontab makes no jobs, whoever leads, and its ticks are not made up for."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Oban, job, telemetry
from oban_sa.models import CronPause
from oban_sa.runner.maintenance import scheduler as module
from oban_sa.runner.maintenance.scheduler import Scheduler
from oban_sa.workers.registry import Registry
from tests.runner.conftest import Harness
from tests.runner.maintenance.test_scheduler import (
    SECOND,
    elect,
    every_second,
    forget_jobs,
    jobs,
    known_since,
    scheduler,
    ticks,
)
from tests.support import eventually

__all__ = ["scheduler"]

Make = Callable[..., Scheduler]


async def led(engine: AsyncEngine, one: Scheduler) -> Oban:
    """Have a node lead and its entries be known, and return a client."""
    await elect(engine, ago=3600)
    await one.tick()
    await forget_jobs(engine)
    return Oban(engine)


async def paused(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as connection:
        return list((await connection.scalars(select(CronPause.name).order_by(CronPause.name))).all())


async def end(engine: AsyncEngine, state: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE oban_jobs SET state = CAST(:state AS oban_job_state), attempt = 1, completed_at = now()"),
            {"state": state},
        )


async def test_a_paused_entry_makes_no_jobs_and_others_do(engine: AsyncEngine, scheduler: Make) -> None:
    one = scheduler(every_second(), every_second(name="other"))
    oban = await led(engine, one)
    await oban.pause_cron("often")
    await known_since(engine, 2 * SECOND)
    events: list[telemetry.SchedulerTick] = []
    detach = telemetry.attach(events.append, telemetry.SchedulerTick)
    try:
        await one.tick()
    finally:
        detach()
    assert {made["meta"]["cron_name"] for made in await jobs(engine)} == {"other"}
    [event] = events
    assert (event.paused, event.skipped) == (1, 0)


async def test_a_pause_that_is_read_too_late_is_obeyed_all_the_same(
    engine: AsyncEngine, scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scheduler(every_second())
    oban = await led(engine, one)
    then = await known_since(engine, 2 * SECOND)
    look = one._look

    async def look_and_be_late() -> object:
        seen = await look()
        assert not seen.known["often"].paused
        await oban.pause_cron("often")
        return seen

    monkeypatch.setattr(one, "_look", look_and_be_late)
    await one.tick()
    assert await jobs(engine) == []
    async with engine.connect() as connection:
        last_at = await connection.scalar(text("SELECT last_at FROM oban_sa_crons"))
    assert last_at > then.replace(tzinfo=None)  # the ticks are spent


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
async def test_ticks_of_a_pause_are_not_made_up_for(engine: AsyncEngine, scheduler: Make, catch_up: str) -> None:
    one = scheduler(every_second(catch_up=catch_up))
    oban = await led(engine, one)
    await oban.pause_cron("often")
    then = await known_since(engine, 10 * SECOND)
    await one.tick()
    await oban.resume_cron("often")
    await one.tick()
    # Seconds may have begun meanwhile, and not more than that.
    assert all(tick > then + 9 * SECOND for tick in await ticks(engine))

    async def makes_jobs_again() -> None:
        await one.tick()
        assert await ticks(engine)

    await eventually(makes_jobs_again)


async def test_an_entry_that_must_not_overlap_keeps_its_last_job_over_a_pause(
    engine: AsyncEngine, scheduler: Make
) -> None:
    one = scheduler(every_second(overlap=False))
    oban = await led(engine, one)
    await known_since(engine, SECOND)
    await one.tick()
    [first] = await jobs(engine)
    await end(engine, "completed")
    await oban.pause_cron("often")
    await known_since(engine, 2 * SECOND)
    await one.tick()
    await oban.resume_cron("often")
    await end(engine, "available")  # as if somebody had retried it
    await known_since(engine, 2 * SECOND)
    await one.tick()
    assert [made["id"] for made in await jobs(engine)] == [first["id"]]  # which is not finished


async def test_the_log_says_once_that_an_entry_is_paused_and_once_that_it_is_resumed(
    engine: AsyncEngine, scheduler: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = scheduler(every_second())
    oban = await led(engine, one)
    caplog.set_level(logging.INFO, "oban_sa.runner")
    await oban.pause_cron("often")
    for _ in range(2):
        await known_since(engine, 2 * SECOND)
        await one.tick()
    await oban.resume_cron("often")
    for _ in range(2):
        await known_since(engine, 2 * SECOND)
        await one.tick()
    assert [record.getMessage() for record in caplog.records if record.name == "oban_sa.runner"] == [
        "cron often: is paused, and makes no jobs until it is resumed",
        "cron often: is resumed",
    ]


async def test_a_pause_holds_for_entries_of_one_instance(engine: AsyncEngine, scheduler: Make) -> None:
    mine, others = scheduler(every_second()), scheduler(every_second(), name="billing")
    await elect(engine, ago=3600)
    await elect(engine, ago=3600, name="billing")
    await mine.tick()
    await others.tick()
    await forget_jobs(engine)
    await Oban(engine, name="billing").pause_cron("often")
    assert await paused(engine) == ["billing: often"]
    await known_since(engine, SECOND)
    await others.tick()
    assert await jobs(engine) == []
    await mine.tick()
    assert await jobs(engine)


async def test_the_pause_of_an_entry_that_is_gone_is_forgotten_once_no_rollout_can_explain_it(
    engine: AsyncEngine, scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with engine.begin() as connection:
        for name in ("often", "gone", "billing: gone", "billing: often"):
            await connection.execute(CronPause.__table__.insert().values(name=name))
    one = scheduler(every_second())
    await elect(engine, ago=3600)
    for _ in range(2):
        await one.tick()
    assert await paused(engine) == ["billing: gone", "billing: often", "gone", "often"]
    monkeypatch.setattr(module, "GONE_AFTER", 0.0)
    late = scheduler(every_second())
    for _ in range(2):
        await late.tick()
    assert await paused(engine) == ["billing: gone", "billing: often", "often"]
    billing = scheduler(every_second(), name="billing")
    await elect(engine, ago=3600, name="billing")
    for _ in range(2):
        await billing.tick()
    assert await paused(engine) == ["billing: often", "often"]


async def test_a_node_that_leads_no_longer_forgets_nothing(
    engine: AsyncEngine, scheduler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GONE_AFTER", 0.0)
    one = scheduler(every_second())
    await elect(engine, ago=3600)
    await one.tick()
    async with engine.begin() as connection:
        await connection.execute(CronPause.__table__.insert().values(name="gone"))
    await elect(engine, node="two")
    await one._forget()  # as if it had been frozen after its look
    assert await paused(engine) == ["gone"]


async def test_a_runner_obeys_a_pause_and_its_end(harness: Harness, registry: Registry) -> None:
    @job(name="often", registry=registry, cron={"expression": "* * * * * *", "name": "often"})
    async def often() -> None: ...

    oban = Oban(harness.engine)
    async with harness.runner() as runner:

        async def known() -> None:
            assert await harness.sql("SELECT 1 FROM oban_sa_crons")

        await eventually(known)
        await oban.pause_cron("often")
        before = len(await harness.sql("SELECT id FROM oban_jobs"))
        ticked: list[int] = []
        detach = telemetry.attach(lambda event: ticked.append(event.paused), telemetry.SchedulerTick)
        try:
            await eventually(lambda: ticked.count(1) >= 2)
        finally:
            detach()
        assert len(await harness.sql("SELECT id FROM oban_jobs")) == before
        await oban.resume_cron("often")

        async def goes_on() -> None:
            assert len(await harness.sql("SELECT id FROM oban_jobs")) > before

        await eventually(goes_on)
        assert runner is not None
