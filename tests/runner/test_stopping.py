"""Stopping waits for the grace period, gives back what it cut short, and always ends."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, Record, Runner, job, telemetry
from oban_sa.errors import RunnerError, SchemaMissing
from oban_sa.runner.database.connection import Line
from oban_sa.runner.queue import producer as producers
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets threads that a test has left behind end."""
    event = threading.Event()
    yield event
    event.set()


async def begun(harness: Harness, runner: Runner, count: int = 1) -> None:
    await eventually(lambda: sum(len(producer.running) for producer in runner._queues.all) == count)


async def test_jobs_that_end_within_the_grace_period_are_completed(harness: Harness, of) -> None:
    stopping = asyncio.Event()

    @job(name="worker", registry=harness.registry)
    async def finishes() -> None:
        await stopping.wait()

    detach = telemetry.attach(lambda event: stopping.set(), telemetry.RunnerStopping)
    await harness.enqueue(*(Job("worker") for _ in range(5)))
    async with harness.runner(grace=20) as runner:
        await begun(harness, runner, 5)
    detach()
    assert await harness.states() == {"completed": 5}
    assert [event.given_back for event in of(telemetry.RunnerStop)] == [0]


async def test_jobs_cut_short_are_given_back_unspent(harness: Harness, of) -> None:
    @job(name="worker", registry=harness.registry)
    async def endless() -> None:
        await asyncio.Event().wait()

    ids = await harness.enqueue(*(Job("worker") for _ in range(5)))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner, 5)
    for job_id in ids:
        back = await harness.job(job_id)
        assert (back.state, back.attempt, back.errors) == ("available", 0, [])
    assert [event.given_back for event in of(telemetry.RunnerStop)] == [5]
    assert await harness.sql("SELECT * FROM oban_producers") == []


async def test_jobs_given_back_start_elsewhere_at_once(harness: Harness) -> None:
    where: list[str] = []
    moved = asyncio.Event()

    @job(name="worker", registry=harness.registry)
    async def moves(job: Job) -> None:
        where.append(job.attempted_by[0])
        if len(where) == 1:
            await asyncio.Event().wait()
        moved.set()

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(node="first", grace=0) as first:
        await begun(harness, first)
        second = Runner(
            harness.engine, **{**harness.options, "registry": harness.registry, "node": "second", "poll_every": 60}
        )
        await second.__aenter__()
        await eventually(lambda: second._notifier.proven)
    await asyncio.wait_for(moved.wait(), 10)
    done = await harness.becomes(job_id, "completed")
    await second.__aexit__(None, None, None)
    assert (where, done.attempt) == (["first", "second"], 1)


async def test_a_job_that_ignores_its_cancellation_is_given_back_all_the_same(harness: Harness) -> None:
    tasks: list[asyncio.Task] = []

    @job(name="worker", registry=harness.registry)
    async def ignores() -> None:
        tasks.append(asyncio.current_task())
        while not done.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await done.wait()

    done = asyncio.Event()
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
    back = await harness.job(job_id)
    assert (back.state, back.attempt) == ("available", 0)
    # Its late answer changes nothing.
    done.set()
    await tasks[0]
    assert (await harness.job(job_id)).state == "available"


async def test_an_answer_given_while_unwinding_counts(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry)
    async def tidy(n: int) -> Record:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return Record(n)

    [job_id] = await harness.enqueue(Job("worker", args={"n": 7}))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
    done = await harness.job(job_id)
    assert (done.state, done.recorded(), done.attempt) == ("completed", 7, 1)


async def test_an_error_while_unwinding_spends_no_attempt(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry)
    async def untidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("could not tidy up")

    [job_id] = await harness.enqueue(Job("worker", max_attempts=1))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
    back = await harness.job(job_id)
    assert (back.state, back.attempt, back.errors) == ("available", 0, [])


async def test_a_job_is_told_that_it_should_stop(harness: Harness) -> None:
    told: list[bool] = []

    @job(name="worker", registry=harness.registry)
    def asks(job: Job) -> None:
        while not job.cancelled():
            time.sleep(0.001)
        told.append(True)

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
    assert told in ([], [True])
    assert (await harness.job(job_id)).state in ("completed", "available")


async def test_code_in_a_thread_is_interrupted_and_its_job_given_back(harness: Harness) -> None:
    started, ended = threading.Event(), threading.Event()

    @job(name="worker", registry=harness.registry)
    def spins() -> None:
        try:
            started.set()
            while True:
                time.sleep(0.001)
        finally:
            ended.set()

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
        await eventually(started.is_set)
    assert ended.is_set()
    back = await harness.job(job_id)
    assert (back.state, back.attempt) == ("available", 0)


@pytest.mark.parametrize("count", [1, 5])
async def test_a_thread_stuck_in_c_is_left_behind(harness: Harness, release: threading.Event, count: int) -> None:
    @job(name="worker", registry=harness.registry)
    def stuck() -> None:
        release.wait()

    ids = await harness.enqueue(*(Job("worker") for _ in range(count)))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner, count)
        tasks = [running.task for producer in runner._queues.all for running in producer.running.values()]
    for job_id in ids:
        back = await harness.job(job_id)
        assert (back.state, back.attempt) == ("available", 0)
    # Nothing of it is left on the loop that could keep the process.
    assert all(task is not None and task.done() for task in tasks)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_what_a_session_wrote_is_rolled_back(harness: Harness, kind: str) -> None:
    await harness.sql("CREATE TABLE effects (n int)")
    if kind == "async":

        @job(name="worker", registry=harness.registry)
        async def in_async(session: AsyncSession) -> None:
            await session.execute(text("INSERT INTO effects VALUES (1)"))
            await asyncio.Event().wait()

    else:

        @job(name="worker", registry=harness.registry)
        def in_sync(session: Session) -> None:
            session.execute(text("INSERT INTO effects VALUES (1)"))
            while True:
                time.sleep(0.001)

    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(grace=0) as runner:
        await begun(harness, runner)
    back = await harness.job(job_id)
    assert (back.state, back.attempt) == ("available", 0)
    assert await harness.sql("SELECT * FROM effects") == []


async def test_what_a_fetch_brings_after_the_end_was_announced_is_not_started(harness: Harness, monkeypatch) -> None:
    ran: list[int] = []

    @job(name="worker", registry=harness.registry)
    async def noted(job: Job) -> None:
        ran.append(job.id)

    fetching, stopping = asyncio.Event(), asyncio.Event()
    fetch = Line.fetch

    async def slow(self: Line, prepared, **values):
        rows = await fetch(self, prepared, **values)
        if "demand" in values and rows:
            fetching.set()
            await stopping.wait()
        return rows

    detach = telemetry.attach(lambda event: stopping.set(), telemetry.RunnerStopping)
    monkeypatch.setattr(Line, "fetch", slow)
    async with harness.runner():
        [job_id] = await harness.enqueue(Job("worker"))
        await fetching.wait()
    detach()
    assert ran == []
    back = await harness.job(job_id)
    assert (back.state, back.attempt) == ("available", 0)


async def test_what_is_held_without_knowing_is_given_back_at_the_end(harness: Harness) -> None:
    """As after a fetch whose answer was lost: others would rescue it much later, and count the attempt."""
    [job_id] = await harness.enqueue(Job("worker", queue="elsewhere"))
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await harness.sql(
            "UPDATE oban_jobs SET state = 'executing', queue = 'default', attempt = 1, "
            "attempted_by = CAST(:holder AS text[]) WHERE id = :id",
            holder=producer.holder,
            id=job_id,
        )
    back = await harness.job(job_id)
    assert (back.state, back.attempt) == ("available", 0)


async def test_stopping_twice_is_stopping(harness: Harness, of) -> None:
    async with harness.runner() as runner:
        runner.stop()
        runner.stop()
        await runner.wait_stopped()
    runner.stop()
    assert len(of(telemetry.RunnerStop)) == 1


async def test_an_exception_in_the_block_stops_the_runner_and_passes(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry)
    async def endless() -> None:
        await asyncio.Event().wait()

    [job_id] = await harness.enqueue(Job("worker"))
    with pytest.raises(ZeroDivisionError):
        async with harness.runner(grace=0) as runner:
            await begun(harness, runner)
            raise ZeroDivisionError
    assert (await harness.job(job_id)).state == "available"
    assert await harness.sql("SELECT * FROM oban_producers") == []


async def test_a_runner_starts_once_and_a_second_start_leaves_it_alone(harness: Harness) -> None:
    @job(name="worker", registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner() as runner:
        with pytest.raises(RunnerError, match="a runner starts once"):
            async with runner:
                pass
        with pytest.raises(RunnerError, match="a runner starts once"):
            await runner.start()
        [job_id] = await harness.enqueue(Job("worker"))
        await harness.becomes(job_id, "completed")


async def test_a_start_that_fails_half_way_takes_back_what_it_did(harness: Harness, monkeypatch) -> None:
    start = producers.Producer.start
    started: list[str] = []

    async def second_fails(self: producers.Producer) -> None:
        if started:
            raise LookupError("no room")  # which trying again can't mend
        started.append(self.queue)
        await start(self)

    monkeypatch.setattr(producers.Producer, "start", second_fails)
    with pytest.raises(LookupError, match="no room"):
        async with harness.runner(queues={"one": 1, "two": 1}):
            pass
    assert started == ["one"]
    assert await harness.sql("SELECT * FROM oban_producers") == []


async def test_a_start_without_tables_ends_without_last_words(empty_database_url: str, caplog) -> None:
    engine = create_async_engine(empty_database_url)
    with pytest.raises(SchemaMissing):
        async with Runner(engine):
            pass
    await engine.dispose()
    assert caplog.messages == []


async def test_stopping_without_a_database_ends(harness: Harness, monkeypatch, caplog) -> None:
    monkeypatch.setattr(producers, "LAST_WORDS", 0.3)

    @job(name="worker", registry=harness.registry)
    async def endless() -> None:
        await asyncio.Event().wait()

    await harness.enqueue(Job("worker"))

    async def away(self, *args, **values):
        raise ConnectionRefusedError("nothing listens there")

    with monkeypatch.context() as patched:
        async with asyncio.timeout(30), harness.runner(grace=0) as runner:
            await begun(harness, runner)
            patched.setattr(Line, "fetch", away)
    assert "could not write its last outcomes" in caplog.text
    assert await harness.states() == {"executing": 1}


async def test_stopping_with_a_database_that_never_answers_ends(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(producers, "LAST_WORDS", 0.3)
    hanging = asyncio.Event()
    fetch = Line.fetch

    async def hangs(self: Line, prepared, **values):
        if "demand" in values:
            hanging.set()
            await asyncio.Event().wait()
        return await fetch(self, prepared, **values)

    monkeypatch.setattr(Line, "fetch", hangs)
    async with asyncio.timeout(30), harness.runner(grace=0):
        await hanging.wait()
    assert await harness.sql("SELECT * FROM oban_producers") == []


async def test_jobs_that_fill_the_executor_of_the_loop_do_not_delay_the_end(
    harness: Harness, release: threading.Event
) -> None:
    threads = asyncio.get_running_loop()
    threads.set_default_executor(ThreadPoolExecutor(1))

    @job(name="worker", registry=harness.registry)
    async def borrows() -> None:
        await asyncio.to_thread(release.wait)

    [job_id] = await harness.enqueue(Job("worker"))
    async with asyncio.timeout(20):
        async with harness.runner(grace=0) as runner:
            await begun(harness, runner)
        assert (await harness.job(job_id)).state == "available"
    release.set()
