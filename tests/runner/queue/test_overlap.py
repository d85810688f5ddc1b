"""The database and the runner work at the same time: what is fetched is begun while the next statement is under way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from oban_sa import Job, Runner, Snooze, job
from oban_sa.runner.execution import attempt
from oban_sa.runner.queue import cycle
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.producer import Producer
from oban_sa.runner.queue.registration import Registration
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Of every statement of a producer: outcomes that it wrote, jobs it asked for, and those that ran meanwhile."""
    seen: list[tuple[int, int, int]] = []
    exchange = Tables.exchange

    async def watched(self: Tables, outcomes: Any, demand: int, *place: Any) -> Any:
        before = len(ran)
        answer = await exchange(self, outcomes, demand, *place)
        seen.append((len(outcomes), demand, len(ran) - before))
        return answer

    monkeypatch.setattr(Tables, "exchange", watched)
    return seen


ran: list[int] = []


@pytest.fixture
def at_once(registry: Registry) -> Any:
    ran.clear()

    @job(registry=registry)
    async def at_once(job: Job) -> None:
        ran.append(job.id)

    return at_once


@pytest.mark.usefixtures("undecided")
async def test_half_of_the_jobs_run_while_the_outcomes_of_the_others_are_written(
    harness: Harness, at_once: Any, exchanges: list[tuple[int, int, int]]
) -> None:
    ids = await harness.enqueue(*(at_once.new() for _ in range(400)))
    # Not until it is idle: who asks for that, or for what is running, has all begun that was fetched.
    async with harness.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(ran) == 400)
    assert ran == sorted(ids)
    assert await harness.states() == {"completed": 400}
    # The first fetch takes all that may run; from then on one half is written while the other runs.
    busy = [each for each in exchanges if each[1] and each[0]]
    assert (32, 32, 32) in busy
    assert max(written for written, _, _ in busy) == 32


@pytest.mark.usefixtures("undecided")
async def test_rows_are_read_once_the_statement_is_on_its_way(
    harness: Harness, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    exchange, read = Tables.exchange, attempt.job_of

    async def watched(self: Tables, outcomes: Any, demand: int, *place: Any) -> Any:
        steps.append("asked")
        answer = await exchange(self, outcomes, demand, *place)
        steps.append("answered")
        return answer

    def reading(*given: Any) -> Job:
        steps.append("read")
        return read(*given)

    monkeypatch.setattr(Tables, "exchange", watched)
    monkeypatch.setattr(attempt, "job_of", reading)
    await harness.enqueue(*(at_once.new() for _ in range(200)))
    async with harness.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(ran) == 200)
    turns = "".join(step[0] if step == "read" else f" {step} " for step in steps).split()
    assert turns[:4] == ["asked", "answered", "r" * 32, "asked"]
    assert turns[4:6] == ["r" * 32, "answered"]
    assert turns[6] == "asked"


async def test_few_jobs_are_not_parted(harness: Harness, at_once: Any, exchanges: list[tuple[int, int, int]]) -> None:
    await harness.enqueue(*(at_once.new() for _ in range(40)))
    await harness.drain(queues={"default": 10}, poll_every=60)
    assert (10, 10, 0) in exchanges


async def test_jobs_that_take_their_time_all_run_at_once(harness: Harness, registry: Registry) -> None:
    together, gate = [], asyncio.Event()

    @job(registry=registry)
    async def waits(job: Job) -> None:
        together.append(job.id)
        await gate.wait()

    await harness.enqueue(*(waits.new() for _ in range(50)))
    async with harness.runner(queues={"default": 50}):
        await eventually(lambda: len(together) == 50)
        gate.set()
    assert await harness.states() == {"completed": 50}


@pytest.fixture
async def fetched(harness: Harness, registry: Registry, at_once: Any) -> AsyncIterator[tuple[Runner, Producer, int]]:
    """A runner that has fetched a job and not begun it, and the job's id."""
    [job_id] = await harness.enqueue(at_once.new())
    runner = Runner(harness.engine, registry=registry)
    [producer] = runner._queues.all
    await producer.registration.write()
    _, rows = await producer._tables.exchange([], 10)
    producer._attempts.add(rows)
    yield runner, producer, job_id
    await producer.stop()


async def test_what_was_fetched_and_has_not_begun_can_be_cancelled(
    harness: Harness, fetched: tuple[Runner, Producer, int]
) -> None:
    runner, producer, job_id = fetched
    runner._queues.cancel(job_id)
    await eventually(lambda: len(producer._acker) == 1)
    await producer.stop()
    assert (await harness.job(job_id)).state == "cancelled"
    assert ran == []


async def test_what_was_fetched_and_has_not_begun_is_given_back_at_the_end(
    harness: Harness, fetched: tuple[Runner, Producer, int]
) -> None:
    _, producer, job_id = fetched
    producer.quiesce()
    assert await producer.stop() == 1
    job = await harness.job(job_id)
    assert (job.state, job.attempt, ran) == ("available", 0, [])


async def test_what_was_fetched_and_has_not_begun_leaves_less_room(fetched: tuple[Runner, Producer, int]) -> None:
    _, producer, _ = fetched
    assert producer.demand() == 9
    assert not producer.idle()


async def test_what_was_fetched_is_begun_though_the_next_statement_fails(
    harness: Harness, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs don't wait for the database to come back before they begin."""
    exchange, failed = Tables.exchange, []

    async def second_fails(self: Tables, outcomes: Any, demand: int, *place: Any) -> Any:
        if outcomes and len(failed) < 3:
            failed.append(len(ran))
            raise ConnectionError("the network is gone")
        return await exchange(self, outcomes, demand, *place)

    monkeypatch.setattr(Tables, "exchange", second_fails)
    ids = await harness.enqueue(*(at_once.new() for _ in range(64)))
    async with harness.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(failed) >= 1)
        await eventually(lambda: len(ran) == 64)
        await eventually(lambda: len(failed) == 3)
        await harness.becomes(ids[-1], "completed", within=20)
    assert ran == sorted(ids)
    assert await harness.states() == {"completed": 64}


async def test_what_was_fetched_is_begun_though_this_node_can_not_register_again(
    harness: Harness, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = Registration.write, []

    async def refused(self: Registration) -> None:
        if ran and len(failed) < 3:
            failed.append(len(ran))
            raise ConnectionError("the network is gone")
        await write(self)

    monkeypatch.setattr(Registration, "write", refused)
    seen_at = property(lambda self: -math.inf if ran else math.inf, lambda self, value: None)
    monkeypatch.setattr(Registration, "seen_at", seen_at, raising=False)
    await harness.enqueue(*(at_once.new() for _ in range(64)))
    async with harness.runner(queues={"default": 64}, poll_every=60, heartbeat_every=60, dead_after=600):
        await eventually(lambda: len(failed) == 3)
    assert failed == [32, 64, 64]
    assert await harness.states() == {"completed": 64}


async def test_jobs_scheduled_at_infinity_are_put_in_order_with_others(harness: Harness, at_once: Any) -> None:
    first, second = await harness.enqueue(at_once.new(), at_once.new())
    await harness.sql(
        "UPDATE oban_jobs SET scheduled_at = '-infinity', inserted_at = '-infinity' WHERE id = :id", id=second
    )
    await harness.drain()
    assert ran == [second, first]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One element for each time that a producer's statements were planned anew."""
    seen: list[int] = []
    plan_anew = Tables.plan_anew

    async def watched(self: Tables) -> None:
        seen.append(1)
        await plan_anew(self)

    monkeypatch.setattr(Tables, "plan_anew", watched)
    monkeypatch.setattr(cycle, "PLANS_LAST", 0.05)
    return seen


async def test_statements_of_a_busy_queue_are_planned_anew_again_and_again(
    harness: Harness, registry: Registry, planned: list[int]
) -> None:
    stop = asyncio.Event()

    @job(registry=registry, max_attempts=1000)
    async def goes_on(job: Job) -> Snooze | None:
        return None if stop.is_set() else Snooze(0)

    await harness.enqueue(goes_on.new())
    async with harness.runner(poll_every=60, stage_every=0.02):
        await eventually(lambda: len(planned) >= 5)
        stop.set()


async def test_statements_of_a_queue_at_rest_are_planned_anew_once_the_table_has_grown(
    harness: Harness, at_once: Any, planned: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    looked = Producer.looked

    def watched(self: Producer, sent_at: float, **found: Any) -> None:
        looks.append(found["size"])
        looked(self, sent_at, **found)

    monkeypatch.setattr(Producer, "looked", watched)
    grow = "INSERT INTO oban_jobs (worker, state) SELECT 'over', 'completed' FROM generate_series(1, {count})"
    async with harness.runner(poll_every=0.3, stage_every=60) as runner:
        await eventually(lambda: len(looks) >= 3)
        for count in (1_000, 10_000):
            before, at_rest = len(planned), len(looks)
            await eventually(lambda at_rest=at_rest: len(looks) >= at_rest + 4)
            assert len(planned) == before
            await harness.sql(grow.format(count=count))
            await eventually(lambda before=before: len(planned) > before)
            await eventually(lambda: looks[-1] == looks[-2])
            # A new connection keeps no plans until it is told to.
            before = len(planned)
            for producer in runner._queues.all:
                producer._tables._line._drop()
            await harness.enqueue(at_once.new())
            await eventually(lambda before=before: len(planned) > before)
    assert looks[0] == 0
    assert 0 < looks[-1] < 30
