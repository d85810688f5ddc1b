"""Code runs where it belongs: the loop, a thread, a process; and whatever it does there harms nobody else."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from oban_sa import Job, Runner, current_job, job
from oban_sa.errors import AttemptCancelled, AttemptTimedOut, JobNotFound
from oban_sa.runner.concurrency.threads import ThreadCall, Threads
from oban_sa.workers import registry as default_registry
from tests.runner import process_jobs
from tests.runner.conftest import Harness
from tests.support import alive, eventually

TRACE: ContextVar[str] = ContextVar("trace", default="none")


@pytest.fixture
def processes(harness: Harness) -> Harness:
    """The same database, with the workers that run in processes."""
    harness.registry = default_registry
    return harness


# Threads


async def test_code_that_blocks_in_a_thread_does_not_block_the_loop(harness: Harness) -> None:
    release, turned = threading.Event(), []

    @job(registry=harness.registry)
    def blocks() -> None:
        assert release.wait(10)

    @job(registry=harness.registry)
    async def turns() -> None:
        turned.append(True)
        release.set()

    blocked, turning = await harness.enqueue(blocks.new(), turns.new())
    await harness.drain()
    assert turned == [True]
    assert (await harness.job(blocked)).state == (await harness.job(turning)).state == "completed"


async def test_as_many_threads_run_at_once_as_the_queue_has_room(harness: Harness) -> None:
    together = threading.Barrier(8)

    @job(registry=harness.registry)
    def meets() -> None:
        together.wait(10)

    await harness.enqueue(*(meets.new() for _ in range(16)))
    await harness.drain(queues={"default": 8})
    assert await harness.states() == {"completed": 16}


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_the_current_job_and_context_variables_are_there(harness: Harness, where: str) -> None:
    seen: dict[int, tuple[Any, ...]] = {}

    def look() -> None:
        found = current_job()
        seen[found.id] = (found.args["n"], TRACE.get())
        TRACE.set(f"set by {found.id}")

    if where == "loop":

        @job(name="worker", registry=harness.registry)
        async def on_loop(n: int) -> None:
            await asyncio.sleep(0)
            await asyncio.to_thread(look)

    else:

        @job(name="worker", registry=harness.registry)
        def in_thread(n: int) -> None:
            look()

    TRACE.set("outside")
    ids = await harness.enqueue(*(Job("worker", args={"n": n}) for n in range(20)))
    await harness.drain(queues={"default": 3})
    assert seen == {job_id: (n, "outside") for n, job_id in enumerate(ids)}
    with pytest.raises(JobNotFound):
        current_job()


async def test_a_job_stays_executing_until_its_thread_has_really_ended(harness: Harness) -> None:
    """Code that can't be interrupted must not be started again elsewhere while it still runs."""
    release, attempts = threading.Event(), Counter[int]()

    @job(name="worker", registry=harness.registry, timeout=0.05, backoff=0)
    def stuck(job: Job) -> None:
        attempts[job.id] += 1
        if job.attempt == 1:
            try:
                release.wait(30)  # the interruption strikes only after this
            except AttemptTimedOut:
                release.wait(30)
                raise

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: producer.running)
        [running] = producer.running.values()
        asked = running.job
        # Well past its timeout, other jobs come and go.
        for _ in range(3):
            [other] = await harness.enqueue(Job("worker", args={}, priority=1, max_attempts=20, attempt=1))
            await harness.becomes(other, "completed")
        assert (await harness.job(job_id)).state == "executing"
        assert attempts[job_id] == 1
        assert asked.attempt == 1
        release.set()
        done = await harness.becomes(job_id, "completed")
    assert done.attempt == 2
    assert done.errors[0]["error"].startswith("AttemptTimedOut")


async def test_an_interruption_that_code_swallows_does_not_end_it(harness: Harness) -> None:
    stop = threading.Event()
    swallowed: list[str] = []

    # Long enough for a thread of a busy machine to have come to its `try`.
    @job(name="worker", registry=harness.registry, timeout=1)
    def stubborn() -> str:
        try:
            while not stop.wait(0.01):
                pass
        except AttemptTimedOut as error:
            swallowed.append(type(error).__name__)
        return "done"

    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain()
    assert swallowed == ["AttemptTimedOut"]
    assert (await harness.job(job_id)).state == "completed"


async def test_a_thread_goes_on_with_other_calls_after_an_interruption(threads: Threads) -> None:
    started, stop = threading.Event(), threading.Event()

    def spin() -> None:
        started.set()
        while not stop.wait(0.001):
            pass

    for _ in range(20):
        started.clear()
        call = threads.call(spin)
        await asyncio.to_thread(started.wait)
        call.interrupt(AttemptCancelled)
        with pytest.raises(AttemptCancelled):
            await call.future
        assert await threads.call(lambda: threading.current_thread().name).future == "oban_sa-0"
    assert len(threads._threads) == 1


async def test_no_interruption_ever_strikes_the_next_call(threads: Threads) -> None:
    """Interrupting at the very moment a call ends must hit that call or nobody."""

    def count(upto: int) -> int:
        total = 0
        for n in range(upto):
            total += n
        return total

    outcomes = Counter[str]()
    for round_ in range(400):
        call = threads.call(lambda n=round_: count(n * 3))
        waiting = asyncio.create_task(asyncio.wait([call.future]))
        interrupter = threading.Thread(target=lambda call=call: [call.interrupt(AttemptCancelled) for _ in range(3)])
        interrupter.start()
        following = threads.call(lambda: "whole")
        assert await following.future == "whole"
        await waiting
        outcomes[type(call.future.exception()).__name__] += 1
        interrupter.join()
    assert sum(outcomes.values()) == 400
    assert set(outcomes) <= {"NoneType", "AttemptCancelled"}
    assert len(threads._threads) <= 2


async def test_code_that_was_interrupted_before_it_began_never_begins() -> None:
    ran: list[bool] = []
    call = ThreadCall(lambda: ran.append(True))
    call.interrupt(AttemptCancelled)
    call.run()
    call.tell()
    with pytest.raises(AttemptCancelled):
        await call.future
    assert ran == []


async def test_an_answer_that_came_before_the_interruption_is_kept() -> None:
    call = ThreadCall(lambda: "answer")
    call.run()
    call.interrupt(AttemptCancelled)
    call.tell()
    assert await call.future == "answer"


async def test_a_free_thread_takes_the_next_call(threads: Threads) -> None:
    names = {await threads.call(lambda: threading.current_thread().name).future for _ in range(50)}
    assert names == {"oban_sa-0"}


async def test_threads_that_are_free_end_and_busy_ones_are_left_behind() -> None:
    threads = Threads()
    release, started = threading.Event(), threading.Event()

    def stuck() -> None:
        started.set()
        release.wait()

    stuck_call = threads.call(stuck)
    await asyncio.to_thread(started.wait)
    await threads.call(lambda: None).future
    stuck_call.interrupt(AttemptCancelled)
    threads.abandon()
    with pytest.raises(AttemptCancelled, match="left behind"):
        await stuck_call.future
    all_threads = list(threads._threads)
    await threads.close(5.0)
    assert [thread.is_alive() for thread in all_threads] == [True, False]
    release.set()
    await eventually(lambda: not any(thread.is_alive() for thread in all_threads))


# Processes


async def test_code_runs_in_another_process_that_is_used_again(processes: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    await processes.enqueue(*(process_jobs.pid_of_child.new(path=str(path)) for _ in range(4)))
    await processes.drain(queues={"default": 1})
    pids = {int(line) for line in path.read_text().split()}
    assert len(pids) == 1
    assert pids != {os.getpid()}
    await eventually(lambda: not any(map(alive, pids)))


async def test_a_process_knows_its_job(processes: Harness, tmp_path: Path) -> None:
    path = tmp_path / "job"
    [job_id] = await processes.enqueue(process_jobs.asks_who_it_is.new(path=str(path)))
    await processes.drain(node="web.1")
    assert path.read_text() == f"{job_id} 1 web.1"


async def test_a_crash_takes_only_its_own_job_along(processes: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    crashed, fine = await processes.enqueue(process_jobs.crash.new(), process_jobs.pid_of_child.new(path=str(path)))
    await processes.drain()
    assert (await processes.job(fine)).state == "completed"
    failed = await processes.job(crashed)
    assert failed.state == "retryable"
    assert failed.errors[0]["error"].startswith(
        "AttemptCrashed: the process that ran tests.runner.process_jobs.crash ended with exit code 1"
    )


@pytest.mark.parametrize(
    "kind", ["StopIteration", "SystemExit", "KeyboardInterrupt", "CancelledError", "GeneratorExit"]
)
async def test_everything_that_a_process_raises_is_an_answer(processes: Harness, kind: str) -> None:
    [job_id] = await processes.enqueue(process_jobs.raises.new(kind=kind))
    async with asyncio.timeout(20):
        await processes.drain()
    failed = await processes.job(job_id)
    assert failed.state == "retryable"
    name = "RuntimeError" if kind == "StopIteration" else kind
    assert failed.errors[0]["error"].startswith(f"{name}: ")


async def test_an_answer_that_can_not_cross_is_a_failed_attempt(processes: Harness) -> None:
    [job_id] = await processes.enqueue(process_jobs.unpicklable.new())
    await processes.drain()
    failed = await processes.job(job_id)
    assert failed.state == "retryable"
    assert "the answer, of type function, can't leave its process" in failed.errors[0]["error"]


async def test_a_process_that_takes_too_long_is_killed(processes: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    [job_id] = await processes.enqueue(process_jobs.dawdle.new(path=str(path)))
    await processes.drain()
    failed = await processes.job(job_id)
    assert failed.errors[0]["error"].startswith("AttemptTimedOut")
    assert not alive(int(path.read_text()))


async def test_shutdown_kills_a_process_and_gives_its_job_back(processes: Harness, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    [job_id] = await processes.enqueue(process_jobs.linger.new(path=str(path)))
    runner = Runner(processes.engine, **{**processes.options, "grace": 0})
    async with runner:
        await eventually(lambda: path.exists() and path.read_text(), 20)
    job_ = await processes.job(job_id)
    assert (job_.state, job_.attempt) == ("available", 0)
    await eventually(lambda: not alive(int(path.read_text())))
