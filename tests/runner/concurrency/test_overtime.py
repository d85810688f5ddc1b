"""Code that catches its interruption and goes on is told of: in the log while it runs, and in its errors at the end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Record, Snooze, job
from oban_sa.errors import AttemptCancelled, AttemptTimedOut
from oban_sa.jobs.verdicts import Attempt, in_spite_of, judge
from oban_sa.runner.concurrency import overtime
from oban_sa.runner.concurrency.threads import ThreadCall
from oban_sa.workers import registry as default_registry
from oban_sa.workers.middleware import CallNext
from tests.runner import process_jobs
from tests.runner.conftest import Harness
from tests.support import eventually

TIMED_OUT = "AttemptTimedOut: the attempt took longer than its timeout of 2 seconds; the code caught this and went on, "
CANCELLED = "AttemptCancelled: The attempt was cancelled while it ran; the code caught this and went on, "
KINDS = ["loop", "thread", "async session", "sync session"]


async def passes(job: Job, call_next: CallNext) -> Any:
    return await call_next()


def stubborn(harness: Harness, kind: str, answer: Any = None, **options: Any) -> dict[str, threading.Event]:
    """Register a worker of a kind that catches whatever interrupts it, and then answers; returns what it tells."""
    told = {"begun": threading.Event(), "caught": threading.Event()}

    async def waits() -> None:
        told["begun"].set()
        try:
            await asyncio.Event().wait()
        except BaseException:
            told["caught"].set()

    def spins() -> None:
        told["begun"].set()
        with contextlib.suppress(Exception):
            while True:
                pass
        told["caught"].set()

    if kind == "loop":

        @job(name="worker", registry=harness.registry, **options)
        async def on_the_loop() -> Any:
            await waits()
            return answer

    elif kind == "thread":

        @job(name="worker", registry=harness.registry, **options)
        def in_a_thread() -> Any:
            spins()
            return answer

    elif kind == "async session":

        @job(name="worker", registry=harness.registry, **options)
        async def with_its_session(session: AsyncSession) -> Any:
            await waits()
            session.add(Job("written", queue="elsewhere"))
            await session.flush()
            return answer

    else:

        @job(name="worker", registry=harness.registry, **options)
        def with_its_session_in_a_thread(session: Session) -> Any:
            spins()
            session.add(Job("written", queue="elsewhere"))
            session.flush()
            return answer

    return told


@pytest.mark.parametrize("middleware", [[], [passes]], ids=["alone", "within middleware"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_timeout_that_code_swallows_is_told_in_the_log_and_in_the_errors_of_the_completed_job(
    harness: Harness, caplog: pytest.LogCaptureFixture, kind: str, middleware: list[Any]
) -> None:
    stubborn(harness, kind, timeout=2)
    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain(middleware=middleware)
    done = await harness.job(job_id)
    assert (done.state, done.attempt, len(done.errors)) == ("completed", 1, 1)
    assert done.errors[0]["error"].startswith(TIMED_OUT)
    assert done.errors[0]["attempt"] == 1
    written = await harness.sql("SELECT state::text FROM oban_jobs WHERE worker = 'written'")
    assert written == ([("available",)] if "session" in kind else [])
    [line] = [line for line in caplog.messages if "caught that and went on" in line]
    assert line.startswith(f"job {job_id} worker of queue default was interrupted (the attempt took longer than")
    assert "the job is completed" in line


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancellation_that_code_swallows_is_told_too(
    harness: Harness, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    told = stubborn(harness, kind)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        await eventually(told["begun"].is_set)
        await Oban(harness.engine).cancel_job(job_id)
        done = await harness.becomes(job_id, "completed")
    assert [entry["error"][: len(CANCELLED)] for entry in done.errors] == [CANCELLED]
    assert sum("caught that and went on" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_that_is_given_although_the_runner_stops_needs_no_words(
    harness: Harness, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    told = stubborn(harness, kind)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0):
        await eventually(told["begun"].is_set)
    done = await harness.job(job_id)
    assert told["caught"].is_set()
    assert (done.state, done.errors) == ("completed", [])
    assert "went on" not in caplog.text


async def test_code_that_is_only_asked_to_stop_swallows_nothing(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    @job(name="worker", registry=harness.registry, cancel="ask")
    async def asks(job: Job) -> None:
        begun.set()
        await eventually(job.cancelled)
        release.set()

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        await begun.wait()
        await Oban(harness.engine).cancel_job(job_id)
        await release.wait()
        done = await harness.becomes(job_id, "completed")
    assert done.errors == []
    assert "went on" not in caplog.text


@pytest.mark.parametrize("answer", [Record(7), Snooze(60)])
async def test_other_answers_count_and_tell_it_as_well(harness: Harness, answer: Any) -> None:
    stubborn(harness, "thread", answer, timeout=2)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        done = await harness.becomes(job_id, "completed" if isinstance(answer, Record) else "scheduled")
    assert [entry["error"][: len(TIMED_OUT)] for entry in done.errors] == [TIMED_OUT]
    assert isinstance(answer, Snooze) or done.recorded() == 7


async def test_a_timeout_that_is_swallowed_in_a_process_is_told(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.registry = default_registry
    [job_id] = await harness.enqueue(process_jobs.swallows_its_timeout.new())
    await harness.drain()
    done = await harness.job(job_id)
    assert (done.state, len(done.errors)) == ("completed", 1)
    assert done.errors[0]["error"].startswith("AttemptTimedOut: the attempt took longer than its timeout of 300 ms; ")
    assert sum("caught that and went on" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("how", ["on the loop", "in a thread"])
async def test_the_log_says_again_and_again_that_code_still_runs_after_its_timeout(
    harness: Harness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(overtime, "FIRST", 0.01)
    release = threading.Event()

    def said() -> int:
        return sum("still runs" in line for line in caplog.messages)

    if how == "on the loop":

        @job(name="worker", registry=harness.registry, timeout=0.05)
        async def goes_on() -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    else:

        @job(name="worker", registry=harness.registry, timeout=0.05)
        def goes_on_in_a_thread() -> None:
            while not release.is_set():
                with contextlib.suppress(AttemptTimedOut):
                    release.wait(0.01)

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner():
        await eventually(lambda: said() >= 3)
        assert (await harness.job(job_id)).state == "executing"
        release.set()
        await harness.becomes(job_id, "completed")
        before = said()
        assert [timer for timer in scheduled() if "Overtime" in repr(timer)] == []
    assert said() == before
    assert f"job {job_id} worker of queue default still runs" in caplog.text
    assert all(line.levelno == logging.WARNING for line in caplog.records if "still runs" in line.message)


def scheduled() -> list[asyncio.TimerHandle]:
    loop: Any = asyncio.get_running_loop()
    return [timer for timer in loop._scheduled if not timer.cancelled()]


async def test_an_interruption_that_comes_when_the_code_has_ended_was_not_ignored() -> None:
    call = ThreadCall(lambda: "answer")
    call.run()
    call.interrupt(AttemptTimedOut)
    assert call.ignored() is None


@pytest.mark.parametrize("swallows", [True, False])
async def test_an_interruption_is_ignored_only_where_it_was_caught(swallows: bool) -> None:
    begun = threading.Event()

    def code() -> str:
        begun.set()
        with contextlib.suppress(AttemptTimedOut if swallows else AttemptCancelled):
            while True:
                pass
        return "answer"

    call = ThreadCall(code)
    thread = threading.Thread(target=call.run)
    thread.start()
    await asyncio.to_thread(begun.wait)
    call.interrupt(AttemptTimedOut)
    await asyncio.to_thread(thread.join)
    call.tell()
    if swallows:
        assert await call.future == "answer"
        assert call.ignored() is AttemptTimedOut
    else:
        with pytest.raises(AttemptTimedOut):
            await call.future


def test_a_verdict_that_has_an_error_already_keeps_that() -> None:
    failed = judge(Attempt(1, 1, 20), ValueError("boom"))
    assert in_spite_of(failed, AttemptTimedOut()) is failed


def test_a_completed_job_of_which_more_is_said_is_not_written_as_a_plain_one() -> None:
    completed = judge(Attempt(1, 1, 20), None)
    assert completed.plain
    assert not in_spite_of(completed, AttemptTimedOut()).plain
