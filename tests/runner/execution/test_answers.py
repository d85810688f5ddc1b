"""Everything that can come out of a worker is an answer, and every answer has its outcome."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, Worker, job, telemetry, worker
from tests.hostile import HOSTILE
from tests.runner.conftest import Harness
from tests.support import eventually

ERRORS: list[Any] = [
    ValueError("boo"),
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError("by itself"),
    GeneratorExit(),
    StopIteration(1),
    StopAsyncIteration(),
    TimeoutError("its own"),
    BaseExceptionGroup("several", [KeyboardInterrupt(), ValueError("x")]),
    ExceptionGroup("several", [ValueError("x")]),
    MemoryError(),
    RecursionError("too deep"),
    type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})(),
]


@pytest.fixture(params=["loop", "thread"])
def where(request) -> str:
    return str(request.param)


def answering(harness: Harness, where: str, answer: Any, **options: Any) -> None:
    """A worker that returns `answer`, or raises it."""
    if where == "loop":

        @job(name="worker", registry=harness.registry, **options)
        async def on_loop() -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

    else:

        @job(name="worker", registry=harness.registry, **options)
        def in_thread() -> Any:
            assert threading.current_thread() is not threading.main_thread()
            if isinstance(answer, BaseException):
                raise answer
            return answer


async def ended(harness: Harness, **options: Any) -> Job:
    """The job after its first attempt."""
    [job_id] = await harness.enqueue(Job("worker", **options))
    async with asyncio.timeout(20):
        await harness.drain()
    return await harness.job(job_id)


@pytest.mark.parametrize("value", [None, 1, "text", False, {"a": [1]}, object(), ValueError])
async def test_a_plain_value_completes_the_job(harness: Harness, where: str, value: Any) -> None:
    answering(harness, where, value)
    done = await ended(harness)
    assert (done.state, done.errors, done.meta, done.attempt) == ("completed", [], {}, 1)
    assert done.completed_at is not None


async def test_a_recorded_value_is_kept(harness: Harness, where: str) -> None:
    answering(harness, where, Record({"sent": True}))
    done = await ended(harness, meta={"mine": 1})
    assert done.recorded() == {"sent": True}
    assert done.meta["mine"] == 1


async def test_a_snooze_gives_the_attempt_back_and_counts_itself(harness: Harness, where: str) -> None:
    answering(harness, where, Snooze("1 hour", {"page": 2}))
    later = await ended(harness, meta={"snoozed": 4, "page": 1})
    assert (later.state, later.attempt, later.errors) == ("scheduled", 0, [])
    assert later.meta == {"snoozed": 5, "page": 2}
    assert timedelta(minutes=59) < later.scheduled_at - datetime.now(UTC) < timedelta(minutes=61)


async def test_a_snooze_is_counted_where_meta_is_no_object(harness: Harness, where: str) -> None:
    answering(harness, where, Snooze(3600))
    [job_id] = await harness.enqueue(Job("worker"))
    await harness.sql("UPDATE oban_jobs SET meta = '[1]'")
    await harness.drain()
    assert await harness.sql("SELECT state::text, attempt FROM oban_jobs WHERE id = :id", id=job_id) == [
        ("scheduled", 0)
    ]


async def test_a_cancel_ends_the_job_and_says_why(harness: Harness, where: str) -> None:
    answering(harness, where, Cancel("no such user"))
    over = await ended(harness)
    assert (over.state, over.attempt) == ("cancelled", 1)
    assert over.errors[0]["error"] == "AttemptCancelled: no such user"
    assert over.cancelled_at is not None


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_every_error_is_an_attempt_that_failed(harness: Harness, where: str, error: BaseException) -> None:
    answering(harness, where, error)
    failed = await ended(harness)
    assert (failed.state, failed.attempt) == ("retryable", 1)
    [entry] = failed.errors
    assert entry["attempt"] == 1
    name = "RuntimeError" if isinstance(error, StopIteration) else type(error).__name__
    assert entry["error"].startswith(f"{name}: ")
    assert timedelta(seconds=15) < failed.scheduled_at - datetime.now(UTC) < timedelta(seconds=20)


@pytest.mark.parametrize("oddity", HOSTILE)
async def test_an_attempt_fails_with_words_and_an_event_whatever_it_raised(
    harness: Harness, where: str, oddity: str
) -> None:
    name, make = HOSTILE[oddity]
    answering(harness, where, make())
    told: list[telemetry.JobException] = []
    detach = telemetry.attach(told.append, telemetry.JobException)
    try:
        failed = await ended(harness)
    finally:
        detach()
    assert (failed.state, failed.attempt) == ("retryable", 1)
    assert failed.errors[0]["error"].startswith(f"{name}: ")
    [event] = told
    assert type(event.error) is type(make())


@pytest.mark.parametrize("error", ERRORS[:4], ids=lambda error: type(error).__name__)
async def test_the_last_attempt_that_fails_discards_the_job(harness: Harness, where: str, error: BaseException) -> None:
    answering(harness, where, error)
    over = await ended(harness, max_attempts=1)
    assert (over.state, len(over.errors)) == ("discarded", 1)
    assert over.discarded_at is not None


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__)
async def test_the_runner_goes_on_after_what_ends_other_programs(harness: Harness, where: str, error: Any) -> None:
    answering(harness, where, error)

    @job(registry=harness.registry)
    async def fine() -> None: ...

    await harness.enqueue(*(Job("worker") for _ in range(5)))
    async with harness.runner():
        await eventually(lambda: retryable(harness, 5))
        [job_id] = await harness.enqueue(fine.new())
        await harness.becomes(job_id, "completed")


async def retryable(harness: Harness, count: int) -> bool:
    return (await harness.states()).get("retryable") == count


async def test_an_error_names_the_workers_code_and_not_the_way_there(harness: Harness, where: str) -> None:
    answering(harness, where, ValueError("boo"))
    failed = await ended(harness)
    text = failed.errors[0]["error"]
    assert text.startswith("ValueError: boo\nTraceback (most recent call last):")
    assert "test_answers.py" in text
    assert "runner/executor.py" not in text
    assert "runner/threads.py" not in text


async def test_nor_the_way_into_a_session(harness: Harness) -> None:
    @job(name="async", registry=harness.registry)
    async def on_loop(session: AsyncSession) -> None:
        raise ValueError("boo")

    @job(name="sync", registry=harness.registry)
    def in_thread(session: Session) -> None:
        raise ValueError("boo")

    ids = await harness.enqueue(Job("async"), Job("sync"))
    await harness.drain()
    for job_id in ids:
        lines = (await harness.job(job_id)).errors[0]["error"].splitlines()
        assert lines[:2] == ["ValueError: boo", "Traceback (most recent call last):"]
        assert "test_answers.py" in lines[2]


async def test_an_unknown_worker_is_left_to_others_and_the_nearest_is_named(harness: Harness, of) -> None:
    @job(name="mailers.welcome", registry=harness.registry)
    async def welcome() -> None: ...

    [job_id] = await harness.enqueue(Job("mailers.welcom"))
    await harness.drain()
    left = await harness.job(job_id)
    assert (left.state, left.attempt, left.errors) == ("available", 0, [])
    (told,) = of(telemetry.WorkerUnknown)
    assert str(told.error) == "no worker is registered as 'mailers.welcom'; similar: mailers.welcome"


async def test_a_worker_is_never_imported_because_a_row_says_so(harness: Harness) -> None:
    import sys

    [job_id] = await harness.enqueue(Job("antigravity.fly"))
    await harness.drain()
    assert "antigravity" not in sys.modules
    assert "unknown_since" in (await harness.job(job_id)).meta


async def test_args_that_no_longer_fit_are_a_failed_attempt(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry)
    async def changed(renamed: int) -> None: ...

    [job_id] = await harness.enqueue(Job("worker", args={"former": 1}))
    await harness.drain()
    failed = await harness.job(job_id)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith("InvalidArguments: ")


async def test_a_backoff_decides_when_to_try_again(harness: Harness, where: str) -> None:
    answering(harness, where, ValueError("boo"), backoff=lambda job: 3600 * job.attempt)
    failed = await ended(harness)
    assert timedelta(minutes=59) < failed.scheduled_at - datetime.now(UTC) < timedelta(minutes=61)


@pytest.mark.parametrize(
    "backoff", [lambda job: 1 / 0, lambda job: -1, lambda job: "soon", lambda job: float("nan"), lambda job: object()]
)
async def test_a_backoff_that_fails_costs_neither_the_retry_nor_the_error(harness: Harness, backoff: Any) -> None:
    answering(harness, "loop", ValueError("boo"), backoff=backoff)
    failed = await ended(harness)
    assert failed.state == "retryable"
    assert "ValueError: boo" in failed.errors[0]["error"]
    assert timedelta(seconds=15) < failed.scheduled_at - datetime.now(UTC) < timedelta(seconds=20)


async def later(job: Job) -> int:
    return 60


@pytest.mark.parametrize(
    ("backoff", "words"),
    [
        (lambda job: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda job: -1, "a span of time can't be negative, and -1 is"),
        (lambda job: "soon", "'soon' is not a span of time"),
        (lambda job: float("nan"), "nan is not a finite span of time"),
        (lambda job: 10**12, "1000000000000 is longer than a thousand years"),
        (lambda job: True, "True is not a span of time"),
        (lambda job: later(job), "it gave a coroutine instead of a span of time"),
    ],
)
async def test_an_error_is_what_the_code_raised_and_says_why_its_backoff_was_not_used(
    harness: Harness, backoff: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    answering(harness, "loop", ValueError("boo"), backoff=backoff)
    told: list[telemetry.JobException] = []
    detach = telemetry.attach(told.append, telemetry.JobException)
    try:
        failed = await ended(harness)
    finally:
        detach()
    [entry] = failed.errors
    assert entry["error"].startswith("ValueError: boo\nTraceback")
    assert f"\n\nThe worker's backoff was not used: {words}" in entry["error"]
    assert timedelta(seconds=15) < failed.scheduled_at - datetime.now(UTC) < timedelta(seconds=20)
    assert str(told[0].error) == "boo"
    assert "the backoff of job" in caplog.text


async def test_a_timeout_that_can_not_be_said_is_a_failed_attempt(harness: Harness) -> None:
    answering(harness, "loop", None, timeout=lambda job: 1 / 0)
    failed = await ended(harness)
    assert (failed.state, failed.errors[0]["error"].partition(":")[0]) == ("retryable", "ZeroDivisionError")


async def test_an_attempt_that_takes_too_long_fails(harness: Harness, where: str) -> None:
    stop = threading.Event()

    if where == "loop":

        @job(name="worker", registry=harness.registry, timeout=0.1)
        async def on_loop() -> None:
            await asyncio.Event().wait()

    else:

        @job(name="worker", registry=harness.registry, timeout=0.1)
        def in_thread() -> None:
            while not stop.wait(0.01):
                pass

    failed = await ended(harness)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith("AttemptTimedOut: the attempt took longer than its timeout of 100 ms")


async def test_an_answer_given_in_spite_of_the_timeout_counts(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry, timeout=0.05)
    async def late() -> Record:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Record("still")
        raise AssertionError

    done = await ended(harness)
    assert (done.state, done.recorded()) == ("completed", "still")


async def test_a_class_says_backoff_and_timeout_itself(harness: Harness) -> None:
    @worker(name="worker", registry=harness.registry)
    class Slow(Worker[dict[str, Any]]):
        async def process(self, job: Job) -> None:
            await asyncio.Event().wait()

        def timeout(self, job: Job) -> float:
            return 0.05

        def backoff(self, job: Job) -> int:
            return 3600

    failed = await ended(harness)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith("AttemptTimedOut")
    assert failed.scheduled_at - datetime.now(UTC) > timedelta(minutes=59)


async def test_a_retry_that_is_due_at_once_does_not_wait_for_the_stager_to_look_again(harness: Harness) -> None:
    attempts: list[int] = []

    @job(name="worker", registry=harness.registry, backoff=0.01)
    async def second_time_lucky(job: Job) -> None:
        attempts.append(job.attempt)
        if job.attempt < 3:
            raise ValueError

    async with harness.runner(stage_every=60, poll_every=60):
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")
    assert attempts == [1, 2, 3]


@pytest.mark.parametrize("answer", [None, ValueError("boo"), Snooze(60)], ids=repr)
async def test_events_tell_what_became_of_an_attempt(harness: Harness, of, answer: Any) -> None:
    answering(harness, "loop", answer)
    done = await ended(harness)
    [start] = of(telemetry.JobStart)
    [end] = [*of(telemetry.JobStop), *of(telemetry.JobException)]
    assert (start.job_id, end.job_id, end.state) == (done.id, done.id, done.state)
    assert isinstance(end, telemetry.JobException) == isinstance(answer, ValueError)
    if isinstance(answer, ValueError):
        assert end.error is answer


async def forgotten() -> None: ...


@pytest.mark.parametrize("record", [False, True], ids=["plain", "record"])
@pytest.mark.parametrize("kind", ["thread", "session in a thread"])
async def test_a_coroutine_that_code_in_a_thread_gives_is_no_answer(harness: Harness, kind: str, record: bool) -> None:
    """What it would have done is not done: the job must not count as complete."""

    @job(registry=harness.registry, record=record)
    def plain() -> object:
        return forgotten()

    @job(registry=harness.registry, record=record)
    def with_session(session: Session) -> object:
        session.execute(text("INSERT INTO oban_jobs (worker, queue) VALUES ('written', 'other')"))
        return forgotten()

    function = plain if kind == "thread" else with_session
    [job_id] = await harness.enqueue(function.new())
    await harness.drain()
    failed = await harness.job(job_id)
    assert failed.state == "retryable"
    assert "the answer is the coroutine forgotten(), which nothing has awaited" in failed.errors[0]["error"]
    assert await harness.states() == {"retryable": 1}


@pytest.mark.parametrize("kind", ["loop", "async session"])
async def test_a_coroutine_that_code_on_the_loop_returns_is_no_answer(harness: Harness, kind: str) -> None:
    @job(registry=harness.registry)
    async def plain() -> object:
        return forgotten()

    @job(registry=harness.registry)
    async def with_session(session: AsyncSession) -> object:
        return forgotten()

    function = plain if kind == "loop" else with_session
    [job_id] = await harness.enqueue(function.new())
    await harness.drain()
    failed = await harness.job(job_id)
    assert failed.state == "retryable"
    assert "the answer is the coroutine forgotten(), which nothing has awaited" in failed.errors[0]["error"]
