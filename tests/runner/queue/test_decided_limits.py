"""Limits of queues that are declared, decided at run time, and set back."""

from __future__ import annotations

import asyncio
import logging

import pytest

from oban_sa import Job, Oban, Queue, Rate
from oban_sa.jobs.limits import Limits, QueueLimits
from oban_sa.runner.runner import Runner
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
def oban(harness: Harness) -> Oban:
    return Oban(harness.engine)


def limits(runner: Runner, queue: str = "default") -> Limits | None:
    return runner._queues.serving[queue].limits


async def test_declared_limits_are_those_of_the_producer(harness: Harness) -> None:
    declared = Queue(5, global_limit=3, rate="60/minute")
    async with harness.runner(queues={"default": declared, "plain": 2}) as runner:
        assert runner.queues == {"default": 5, "plain": 2}
        assert limits(runner) == declared.limits
        assert limits(runner, "plain") is None


async def test_what_is_decided_holds_at_once_and_for_later_nodes_until_it_is_set_back(
    harness: Harness, oban: Oban
) -> None:
    declared = Queue(5, global_limit=3)
    # So rare that only a message explains what is obeyed.
    async with harness.runner(queues={"default": declared}, heartbeat_every=60, dead_after=180) as runner:
        await eventually(lambda: runner._notifier.proven)
        await oban.limit_queue("default", rate=Rate(100, per=1))
        await eventually(lambda: limits(runner) == Limits(global_limit=3, rate=Rate(100, per=1)))
        await oban.limit_queue("default", global_limit=None)
        await eventually(lambda: limits(runner) == Limits(rate=Rate(100, per=1)))
        [check] = await eventually_limits(oban, Limits(rate=Rate(100, per=1)))
        assert check.limit == 5
    async with harness.runner(queues={"default": declared}) as runner:
        assert limits(runner) == Limits(rate=Rate(100, per=1))
        await oban.reset_queue_limits("default")
        await eventually(lambda: limits(runner) == declared.limits)


async def eventually_limits(oban: Oban, expected: Limits) -> list[object]:
    async def told() -> list[object]:
        checks = await oban.check_queues()
        assert [check.limits for check in checks] == [expected]
        return list(checks)

    found: list[object] = await eventually(told)
    return found


async def test_limits_that_no_message_told_of_are_found_in_the_tables(harness: Harness, oban: Oban) -> None:
    async with harness.runner() as runner:
        await runner._notifier.stop()
        await oban.limit_queue("default", global_limit=2)
        await eventually(lambda: limits(runner) == Limits(global_limit=2))


async def test_limits_of_another_instance_are_none_of_ours(harness: Harness) -> None:
    await Oban(harness.engine, name="Other").limit_queue("default", global_limit=2)
    async with harness.runner() as runner:
        assert limits(runner) is None


async def test_each_makes_partitions_where_none_were_declared(harness: Harness, oban: Oban) -> None:
    await oban.limit_queue("default", each=2)
    async with harness.runner() as runner:
        assert limits(runner) == Limits(by="partition", each=2)


async def test_what_the_table_says_wrongly_is_told_once_and_ignored(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.sql(
        """INSERT INTO oban_sa_queues (name, meta) VALUES ('default', '{"Oban":
           {"global_limit": "many", "global_limit_at": "2026", "rate": "1/s", "rate_at": "2026"}}')"""
    )
    with caplog.at_level(logging.WARNING):
        async with harness.runner(queues={"default": Queue(5, global_limit=3)}) as runner:
            await runner._decisions.tick()
            assert limits(runner) == Limits(global_limit=3, rate=Rate(1, per=1))
    said = [record.message for record in caplog.records if "no usable" in record.message]
    assert len(said) == 1
    assert "no usable global_limit of the queue default: global_limit is a whole number" in said[0]


async def test_a_queue_started_at_run_time_has_its_limits_before_its_first_job(
    harness: Harness, oban: Oban, registry: Registry
) -> None:
    most = running = 0
    opened = asyncio.Event()

    @job(registry=registry, name="hold")
    async def hold() -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await opened.wait()
        running -= 1

    ids = await harness.enqueue(*(Job("hold", queue="new") for _ in range(8)))
    async with harness.runner() as runner:
        await eventually(lambda: runner._notifier.proven)
        await oban.start_queue("new", limit=5, global_limit=2)
        await eventually(lambda: running == 2)
        await runner._queues.serving["new"].fetched.wait()
        opened.set()
        for job_id in ids:
            await harness.becomes(job_id, "completed")
        assert most == 2
        # Started once more, as by another program's client: what was decided still holds.
        await oban.stop_queue("new")
        await eventually(lambda: "new" not in runner._queues.serving)
        await oban.start_queue("new", limit=5)
        await eventually(lambda: "new" in runner._queues.serving and limits(runner, "new") == Limits(global_limit=2))


@pytest.mark.parametrize(
    ("declared", "given", "told"),
    [
        (Queue(5), {"burst": True}, ["the burst that was decided for the queue default has no effect: burst lets"]),
        (Queue(5), {"fair": {"acme": 3}}, ["the fair that was decided for the queue default has no effect: fair giv"]),
        (Queue(5), {"fair": True}, []),
        (Queue(5), {"by": "partition", "each": 2, "fair": {"acme": 3}, "burst": True}, []),
        (Queue(5, by="partition", each=2), {"fair": {"acme": 3}, "burst": True}, []),
    ],
)
async def test_what_was_decided_without_effect_is_told_once_by_the_node(
    harness: Harness, oban: Oban, caplog: pytest.LogCaptureFixture, declared: Queue, given: QueueLimits, told: list[str]
) -> None:
    await oban.limit_queue("default", **given)  # no node is there that could say what it declares
    with caplog.at_level(logging.WARNING):
        async with harness.runner(queues={"default": declared}) as runner:
            await runner._decisions.tick()
            await oban.limit_queue("default", by=None)
            await runner._decisions.tick()
    said = [record.message for record in caplog.records if "no effect" in record.message]
    assert len(said) == len(told)
    assert all(message.startswith(start) for message, start in zip(said, told, strict=True))
