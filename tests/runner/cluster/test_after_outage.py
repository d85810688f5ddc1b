"""Nodes that could not beat because the database was away are not taken for dead once it is back."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from oban_sa import telemetry
from oban_sa.jobs import backoff
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared, Text
from oban_sa.runner.maintenance.lifeline import Lifeline
from oban_sa.runner.queue.settings import Decisions
from oban_sa.schedule import clock
from tests.runner.conftest import Harness
from tests.runner.maintenance.test_lifeline import executing, producer_row
from tests.support import eventually


async def test_a_leader_elected_after_an_outage_gives_everybody_time_to_beat_again(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = telemetry.Source(node="leading")
    leader = Leader(Database(harness.engine), source=source, lasts=60)
    await leader.tick()
    ahead = 0.0
    monotonic = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + ahead)
    patient = Lifeline(Database(harness.engine), leader, source=source, every=2, patience=7)
    job_id = await executing(harness, await producer_row(harness, silent_for=10))
    assert await patient.tick() == 2
    ahead = 6.5
    assert 0 < await patient.tick() <= 0.5
    # The database goes away for longer than the lease lasts.
    ahead = 100.0
    await leader.tick()
    ahead = 101.0
    assert await patient.tick() == 2
    assert (await harness.job(job_id)).state == "executing"
    ahead = 108.0
    await patient.tick()
    assert (await harness.job(job_id)).state == "available"
    await patient.close()
    await leader.close()


async def test_an_outage_is_told_of_by_one_of_a_runners_databases(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for database in (Database(harness.engine), Database(harness.engine, quiet=True)):
        database.availability.went_away(ConnectionResetError("gone"))
        database.availability.went_away(ConnectionResetError("gone"))
        database.availability.came_back()
    assert [line.partition(" (")[0].partition(" after")[0] for line in caplog.messages] == [
        "the database is away",
        "the database is back",
    ]


async def test_what_waits_to_be_tried_again_is_tried_once_the_database_is_back(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a queue that was paused meanwhile is fetched from until the pause of that part is over too."""
    ticks: list[int] = []

    async def failing(self: Decisions) -> float:
        ticks.append(len(ticks))
        if len(ticks) == 2:  # the first one belongs to the start
            raise ConnectionResetError("gone")
        return 60.0

    monkeypatch.setattr(Decisions, "tick", failing)
    monkeypatch.setattr(backoff, "retrying", lambda failures: 60.0)
    async with harness.runner() as runner:
        await eventually(lambda: len(ticks) == 2)
        runner._database.availability.went_away(ConnectionResetError("gone"))
        runner._database.availability.came_back()
        await eventually(lambda: len(ticks) == 3)


async def test_a_loop_that_stood_still_is_no_outage(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    line = Database(harness.engine).line()
    await line.fetch(Prepared(lambda: Text("SELECT 1", (), {})))
    slow = Prepared(lambda: Text("SELECT pg_sleep(5)", (), {}))

    async def in_transaction() -> None:
        async with line.transaction(within=0.2) as transaction:
            await transaction.fetch(Prepared(lambda: Text("SELECT pg_sleep(0.1)", (), {})))
            await transaction.fetch(slow)

    # asyncio hears an answer that came meanwhile before it looks at its timers, but the next one is waited for no more.
    for work in (line.fetch(slow, 0.2), in_transaction()):
        waiting = asyncio.create_task(work)
        await asyncio.sleep(0.05)
        time.sleep(1.0)  # noqa: ASYNC251 - blocks on purpose
        with pytest.raises(TimeoutError):
            await waiting
    assert caplog.messages == []
    with pytest.raises(TimeoutError):
        await line.fetch(slow, 0.1)
    assert "the database is away (TimeoutError)" in caplog.text
    await line.close()


async def test_a_lease_lost_with_its_table_is_a_new_one(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lost the lease, a crash of the server, may have emptied the producers' table too, where that is unlogged."""
    leader = Leader(Database(harness.engine), source=telemetry.Source(node="leading"), lasts=60)
    await leader.tick()
    ahead = 0.0
    monotonic = clock.monotonic
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + ahead)
    ahead = 20.0
    await leader.tick()
    assert leader.led_for >= 20
    await harness.sql("TRUNCATE oban_leaders")
    await leader.tick()
    assert leader.leading
    assert leader.led_for < 10
    await leader.close()
