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
from oban_sa.workers.registry import registry
from tests.runner import process_jobs
from tests.runner.conftest import House
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


def register(house: House, kind: str, body: Callable[[], Any], **options: Any) -> None:
    options = {"name": "worker", "registry": house.registry, **options}
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
    house: House, refs: list[weakref.ref[Big]], kind: str, around: Any
) -> None:
    errors = iter(ERRORS)
    register(house, kind, lambda: fails(refs, next(errors)))
    async with house.runner(middleware=[around] if around else []):
        ids = await house.enqueue(*(Job("worker") for _ in ERRORS))
        for job_id in ids:
            await house.becomes(job_id, "retryable")
        assert len(refs) == len(ERRORS)
        await eventually(lambda: [ref() for ref in refs] == [None] * len(ERRORS), 2)


@pytest.mark.parametrize("around", [None, through])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loop"])
async def test_so_does_one_whose_time_is_up(house: House, refs: list[weakref.ref[Big]], kind: str, around: Any) -> None:
    body = (lambda: waits(refs)) if kind in THREADS else lambda: waits_on_loop(refs)
    register(house, kind, body, timeout=0.2)
    async with house.runner(middleware=[around] if around else []):
        [job_id] = await house.enqueue(Job("worker"))
        await house.becomes(job_id, "retryable")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loop"])
async def test_so_does_one_that_is_cancelled(house: House, refs: list[weakref.ref[Big]], kind: str) -> None:
    body = (lambda: waits(refs)) if kind in THREADS else lambda: waits_on_loop(refs)
    register(house, kind, body)
    async with house.runner() as runner:
        [job_id] = await house.enqueue(Job("worker"))
        await eventually(lambda: len(refs) == 1)
        runner._queues.cancel(job_id)
        await house.becomes(job_id, "cancelled")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)


async def test_so_does_one_whose_failure_somebody_listens_to(house: House, refs: list[weakref.ref[Big]]) -> None:
    heard: list[str] = []
    detach = telemetry.attach(lambda event: heard.append(repr(event.error)), telemetry.JobException)
    register(house, "def", lambda: fails(refs, lambda: ValueError("boo")))
    async with house.runner():
        [job_id] = await house.enqueue(Job("worker"))
        await house.becomes(job_id, "retryable")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)
    detach()
    assert heard == ["ValueError('boo')"]


async def test_so_does_one_in_a_process_there_and_here(house: House, refs: list[weakref.ref[Big]]) -> None:
    async with house.runner(registry=registry, process_pool=1):
        [failed] = await house.enqueue(process_jobs.holds.new())
        error = await house.becomes(failed, "retryable", 60)
        assert error.errors[0]["error"].startswith("ValueError: held")
        [asked] = await house.enqueue(process_jobs.still_held.new())
        assert (await house.becomes(asked, "completed", 60)).recorded() is False
    assert not [each for each in gc.get_objects() if isinstance(each, ValueError) and each.args == ("held",)]


async def test_threads_that_have_nothing_to_do_hold_nothing(house: House, refs: list[weakref.ref[Big]]) -> None:
    def succeeds() -> None:
        refs.append(weakref.ref(Big()))
        assert threading.current_thread() is not threading.main_thread()

    register(house, "def", succeeds)
    async with house.runner():
        [job_id] = await house.enqueue(Job("worker"))
        await house.becomes(job_id, "completed")
        await eventually(lambda: [ref() for ref in refs] == [None], 2)
