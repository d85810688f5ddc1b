"""What a failed attempt held in memory is let go of with its outcome, without waiting for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Job, job, telemetry
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.queue.acker import Acker
from oban_sa.workers.registry import registry
from tests.runner import process_jobs
from tests.runner.conftest import Harness
from tests.support import eventually


class Big:
    """As a table of numbers would be, in a local variable."""


@pytest.fixture
def refs() -> Iterator[list[weakref.ref[Big]]]:
    """References that the workers of a test leave; nothing collects cycles meanwhile."""
    gc.collect()
    gc.disable()
    logging.disable()  # pytest keeps what is logged, and with it errors
    yield []
    logging.disable(logging.NOTSET)
    gc.enable()


def fails(refs: list[weakref.ref[Big]], error: Callable[[], BaseException]) -> None:
    big = Big()
    refs.append(weakref.ref(big))
    deeper(big, error)


def deeper(big: Big, error: Callable[[], BaseException]) -> None:
    try:
        raise LookupError(1)
    except LookupError as cause:
        raise error() from cause


def waits(refs: list[weakref.ref[Big]]) -> None:
    big = Big()
    refs.append(weakref.ref(big))
    while big:
        time.sleep(0.001)


async def waits_on_loop(refs: list[weakref.ref[Big]]) -> None:
    big = Big()
    refs.append(weakref.ref(big))
    await asyncio.Event().wait()
    assert big


def register(harness: Harness, kind: str, body: Callable[[], Any], **options: Any) -> None:
    options = {"name": "worker", "registry": harness.registry, **options}
    match kind:
        case "async":

            @job(**options)
            async def on_loop() -> None:
                await asyncio.sleep(0)
                answer = body()
                if answer is not None:
                    await answer

        case "loop":

            @job(executor="loop", **options)
            def called_on_loop() -> None:
                body()

        case "def":

            @job(**options)
            def in_thread() -> None:
                body()

        case "async session":

            @job(**options)
            async def in_async_session(session: AsyncSession) -> None:
                await session.execute(text("SELECT 1"))
                answer = body()
                if answer is not None:
                    await answer

        case _:

            @job(**options)
            def in_session(session: Session) -> None:
                session.execute(text("SELECT 1"))
                body()


async def through(job: Job, call_next: Any) -> Any:
    return await call_next(job)


async def looks(job: Job, call_next: Any) -> Any:
    try:
        return await call_next(job)
    except Exception as error:
        raise RuntimeError("looked at") from error


KINDS = ["async", "loop", "def", "async session", "sync session"]
THREADS = ["def", "sync session"]
ERRORS = [lambda: ValueError("boo"), lambda: SystemExit(3), lambda: StopIteration(1), lambda: TimeoutError()]


@pytest.mark.parametrize("around", [None, through, looks])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_attempt_lets_go_of_what_its_code_held(
    harness: Harness, refs: list[weakref.ref[Big]], kind: str, around: Any
) -> None:
    errors = iter(ERRORS)
    register(harness, kind, lambda: fails(refs, next(errors)))
    async with harness.runner(middleware=[around] if around else []):
        ids = await harness.enqueue(*(Job("worker") for _ in ERRORS))
        for job_id in ids:
            await harness.becomes(job_id, "retryable")
        assert len(refs) == len(ERRORS)
        await eventually(lambda: [ref() for ref in refs] == [None] * len(ERRORS), 2)


@pytest.mark.parametrize("around", [None, through])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loop"])
async def test_so_does_one_whose_time_is_up(
    harness: Harness, refs: list[weakref.ref[Big]], kind: str, around: Any
) -> None:
    body = (lambda: waits(refs)) if kind in THREADS else lambda: waits_on_loop(refs)
    register(harness, kind, body, timeout=0.2)
    async with harness.runner(middleware=[around] if around else []):
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "retryable")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loop"])
async def test_so_does_one_that_is_cancelled(harness: Harness, refs: list[weakref.ref[Big]], kind: str) -> None:
    body = (lambda: waits(refs)) if kind in THREADS else lambda: waits_on_loop(refs)
    register(harness, kind, body)
    async with harness.runner() as runner:
        [job_id] = await harness.enqueue(Job("worker"))
        await eventually(lambda: len(refs) == 1)
        runner._queues.cancel(job_id)
        await harness.becomes(job_id, "cancelled")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)


async def test_so_does_one_whose_failure_somebody_listens_to(harness: Harness, refs: list[weakref.ref[Big]]) -> None:
    heard: list[str] = []
    detach = telemetry.attach(lambda event: heard.append(repr(event.error)), telemetry.JobException)
    register(harness, "def", lambda: fails(refs, lambda: ValueError("boo")))
    async with harness.runner():
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "retryable")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)
    detach()
    assert heard == ["ValueError('boo')"]


async def test_so_does_one_in_a_process_there_and_here(harness: Harness, refs: list[weakref.ref[Big]]) -> None:
    async with harness.runner(registry=registry, process_pool=1):
        [failed] = await harness.enqueue(process_jobs.holds.new())
        error = await harness.becomes(failed, "retryable", 60)
        assert error.errors[0]["error"].startswith("ValueError: held")
        [asked] = await harness.enqueue(process_jobs.still_held.new())
        assert (await harness.becomes(asked, "completed", 60)).recorded() is False
    assert not [each for each in gc.get_objects() if isinstance(each, ValueError) and each.args == ("held",)]


async def test_threads_that_have_nothing_to_do_hold_nothing(harness: Harness, refs: list[weakref.ref[Big]]) -> None:
    def succeeds() -> None:
        refs.append(weakref.ref(Big()))
        assert threading.current_thread() is not threading.main_thread()

    register(harness, "def", succeeds)
    async with harness.runner():
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)


async def test_a_job_is_let_go_of_before_its_outcome_is_written(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[weakref.ref[Job]] = []
    gone: list[bool] = []
    add = Acker.add

    def added(self: Acker, outcome: Outcome) -> None:
        gone.append(jobs[0]() is None)
        again = outcome.attempt.job  # for who asks after all, such as an event that says that it came too late
        gone.append((again.id, again.args) == (outcome.verdict.job_id, {"text": "long"}))
        add(self, outcome)

    monkeypatch.setattr(Acker, "add", added)

    @job(registry=harness.registry)
    async def remembers(job: Job, text: str) -> None:
        jobs.append(weakref.ref(job))

    await harness.enqueue(remembers.new("long"))
    await harness.drain()
    assert gone == [True, True]
