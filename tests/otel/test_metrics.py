"""What attempts are measured by, and what is asked of a runner."""

from __future__ import annotations

from collections.abc import Callable

from oban_sa import job
from oban_sa.otel import observe
from tests.otel.conftest import Traced
from tests.runner.conftest import Harness
from tests.support import eventually


async def test_attempts_are_measured_in_seconds(
    harness: Harness, traced: Traced, instrument: Callable[..., None]
) -> None:
    instrument()

    @job(name="mail", registry=harness.registry, max_attempts=1)
    async def mail(fails: bool) -> None:
        if fails:
            raise LookupError("no")

    await harness.enqueue(mail.new(False), mail.new(False), mail.new(True))
    await harness.drain()
    points = {point.attributes["oban.job.state"]: point for point in traced.points("messaging.process.duration")}
    assert {state: point.count for state, point in points.items()} == {"completed": 2, "discarded": 1}
    assert points["discarded"].attributes["error.type"] == "LookupError"
    assert points["completed"].explicit_bounds[:3] == (0.005, 0.01, 0.025)
    assert {point.value for point in traced.points("messaging.client.consumed.messages")} == {2, 1}
    [waited] = traced.points("oban.job.wait")
    assert waited.count == 3


async def test_jobs_are_counted_once_they_are_committed(
    harness: Harness, traced: Traced, instrument: Callable[..., None]
) -> None:
    instrument()

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.enqueue(mail.new(), mail.new())
    async with harness.sessions() as session:
        session.add(mail.new())
        await session.flush()
        await session.rollback()
    [sent] = traced.points("messaging.client.sent.messages")
    assert sent.value == 2
    assert dict(sent.attributes) == {
        "messaging.system": "oban",
        "messaging.operation.name": "send",
        "messaging.destination.name": "default",
        "oban.job.worker": "mail",
    }


async def test_metrics_can_be_left_out(harness: Harness, traced: Traced, instrument: Callable[..., None]) -> None:
    instrument(metrics=False)

    @job(name="mail", registry=harness.registry)
    async def mail() -> None: ...

    await harness.enqueue(mail.new())
    await harness.drain()
    assert traced.points("messaging.process.duration") == []
    assert traced.spans("process default")


async def test_how_many_jobs_there_are_is_asked_of_a_runner(harness: Harness, traced: Traced) -> None:
    await harness.sql("INSERT INTO oban_jobs (queue, worker) SELECT 'idle', 'mail' FROM generate_series(1, 5)")
    async with harness.runner(prometheus=True) as runner:
        observe(runner, meter_provider=traced.meters)

        def counted() -> None:
            found = {
                (point.attributes["messaging.destination.name"], point.attributes["oban.job.state"]): point.value
                for point in traced.points("oban.jobs")
            }
            assert found == {("idle", "available"): 5}

        await eventually(counted)
        limits = {
            point.attributes["messaging.destination.name"]: point.value for point in traced.points("oban.queue.limit")
        }
    assert limits == {"default": 10}
