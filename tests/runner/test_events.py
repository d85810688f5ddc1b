"""Everything that a runner does is told of, by the names that dashboards and alarms are written against."""

from __future__ import annotations

import asyncio

from oban_sa import Job, job, telemetry
from tests.runner.conftest import Harness
from tests.runner.maintenance.test_lifeline import executing, producer_row
from tests.support import eventually

NAMES = {
    "oban.job.start",
    "oban.job.stop",
    "oban.job.exception",
    "oban.job.stale",
    "oban.producer.fetch",
    "oban.producer.ack",
    "oban.stager.stage",
    "oban.leader.election",
    "oban.lifeline.rescue",
    "oban.pruner.prune",
    "oban.scheduler.tick",
    "oban.worker.unknown",
}


async def test_a_runner_that_does_everything_tells_of_everything_by_its_name(
    harness: Harness, events: list[telemetry.Event]
) -> None:
    gate = asyncio.Event()

    @job(registry=harness.registry)
    async def fine() -> None: ...

    @job(registry=harness.registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError

    @job(registry=harness.registry)
    async def waits() -> None:
        await gate.wait()

    @job(registry=harness.registry, cron="* * * * * *")
    async def ticked() -> None: ...

    await executing(harness, await producer_row(harness, silent_for=10))
    [taken] = await harness.enqueue(waits.new())
    await harness.enqueue(fine.new(), fine.options(schedule_in=0.2).new(), fails.new(), Job("unknown"))
    async with harness.runner(prune=0.1):
        await harness.becomes(taken, "executing")
        await harness.sql("UPDATE oban_jobs SET state = 'cancelled', cancelled_at = now() WHERE id = :id", id=taken)
        gate.set()
        await eventually(lambda: {event.name for event in events} >= NAMES, 20)
    for event in events:
        for span in ("duration", "queue_time"):
            assert getattr(event, span, 0.0) >= 0
        assert (event.runner.name, event.runner.schema) == ("Oban", "public")
