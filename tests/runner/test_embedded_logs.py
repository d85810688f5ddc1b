"""A runner inside of a program says what fails, to the loggers that the program has configured, or to nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from oban_sa import Job, job, telemetry
from oban_sa.telemetry import log
from oban_sa.workers import Registry
from tests.runner.conftest import Harness


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was written about jobs."""
    return lambda: [record.getMessage() for record in caplog.records if record.name == "oban_sa.job"]


async def fail_one(harness: Harness, registry: Registry, runners: int = 1) -> None:
    @job(name="shop.fail", registry=registry, max_attempts=1)
    async def fail() -> None:
        raise ValueError("no paper")

    async with AsyncExitStack() as stack:
        for number in range(runners):
            await stack.enter_async_context(harness.runner(node=f"node.{number}"))
        (job_id,) = await harness.enqueue(Job("shop.fail", max_attempts=1))
        await harness.becomes(job_id, "discarded")


async def test_a_failing_job_is_written_to_the_log(
    harness: Harness, registry: Registry, lines: Callable[[], list[str]]
) -> None:
    await fail_one(harness, registry)
    (line,) = lines()
    assert "shop.fail" in line or "fail" in line
    assert "no paper" in line


async def test_several_runners_write_it_once(
    harness: Harness, registry: Registry, lines: Callable[[], list[str]]
) -> None:
    await fail_one(harness, registry, runners=2)
    assert len(lines()) == 1


async def test_a_program_that_follows_events_by_itself_reads_them_once(
    harness: Harness, registry: Registry, lines: Callable[[], list[str]]
) -> None:
    stop = log.follow_events()
    try:
        await fail_one(harness, registry)
    finally:
        stop()
    assert len(lines()) == 1


async def test_what_no_logger_wants_is_not_listened_to(harness: Harness, registry: Registry) -> None:
    async with harness.runner():
        assert telemetry.listening(telemetry.JobException)
        assert not telemetry.listening(telemetry.JobStop)
    assert not telemetry.listening(telemetry.JobException)


async def test_a_logger_at_info_hears_what_was_done(
    harness: Harness, registry: Registry, caplog: pytest.LogCaptureFixture, lines: Callable[[], list[str]]
) -> None:
    @job(name="shop.print", registry=registry)
    async def print_it() -> None:
        return None

    caplog.set_level(logging.INFO)
    async with harness.runner():
        (job_id,) = await harness.enqueue(Job("shop.print"))
        await harness.becomes(job_id, "completed")
    assert [line for line in lines() if "completed" in line]
