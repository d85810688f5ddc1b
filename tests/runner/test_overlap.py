"""The database and the runner work at the same time: what is fetched is begun while the next statement is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from oban_sa import Job, Runner, Snooze, job
from oban_sa.runner import attempts
from oban_sa.runner import producer as producer_module
from oban_sa.runner.producer import Producer
from oban_sa.runner.tables import Tables
from oban_sa.workers import Registry
from tests.runner.conftest import House
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
    house: House, at_once: Any, exchanges: list[tuple[int, int, int]]
) -> None:
    ids = await house.enqueue(*(at_once.new() for _ in range(400)))
    # Not until it is idle: who asks for that, or for what is running, has all begun that was fetched.
    async with house.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(ran) == 400)
    assert ran == sorted(ids)
    assert await house.states() == {"completed": 400}
    # The first fetch takes all that may run; from then on one half is written while the other runs.
    busy = [each for each in exchanges if each[1] and each[0]]
    assert (32, 32, 32) in busy
    assert max(written for written, _, _ in busy) == 32


@pytest.mark.usefixtures("undecided")
async def test_rows_are_read_once_the_statement_is_on_its_way(
    house: House, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    exchange, read = Tables.exchange, attempts.job_of

    async def watched(self: Tables, outcomes: Any, demand: int, *place: Any) -> Any:
        steps.append("asked")
        answer = await exchange(self, outcomes, demand, *place)
        steps.append("answered")
        return answer

    def reading(*given: Any) -> Job:
        steps.append("read")
        return read(*given)

    monkeypatch.setattr(Tables, "exchange", watched)
    monkeypatch.setattr(attempts, "job_of", reading)
    await house.enqueue(*(at_once.new() for _ in range(200)))
    async with house.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(ran) == 200)
    turns = "".join(step[0] if step == "read" else f" {step} " for step in steps).split()
    assert turns[:4] == ["asked", "answered", "r" * 32, "asked"]
    assert turns[4:6] == ["r" * 32, "answered"]
    assert turns[6] == "asked"


async def test_few_jobs_are_not_parted(house: House, at_once: Any, exchanges: list[tuple[int, int, int]]) -> None:
    await house.enqueue(*(at_once.new() for _ in range(40)))
    await house.drain(queues={"default": 10}, poll_every=60)
    assert (10, 10, 0) in exchanges


async def test_jobs_that_take_their_time_all_run_at_once(house: House, registry: Registry) -> None:
    together, gate = [], asyncio.Event()

    @job(registry=registry)
    async def waits(job: Job) -> None:
        together.append(job.id)
        await gate.wait()

    await house.enqueue(*(waits.new() for _ in range(50)))
    async with house.runner(queues={"default": 50}):
        await eventually(lambda: len(together) == 50)
        gate.set()
    assert await house.states() == {"completed": 50}


@pytest.fixture
async def fetched(house: House, registry: Registry, at_once: Any) -> AsyncIterator[tuple[Runner, Producer, int]]:
    """A runner that has fetched a job and not begun it, and the job's id."""
    [job_id] = await house.enqueue(at_once.new())
    runner = Runner(house.engine, registry=registry)
    [producer] = runner._queues.all
    await producer.register()
    _, rows = await producer._tables.exchange([], 10)
    producer._attempts.add(rows)
    yield runner, producer, job_id
    await producer.stop()


async def test_what_was_fetched_and_has_not_begun_can_be_cancelled(
    house: House, fetched: tuple[Runner, Producer, int]
) -> None:
    runner, producer, job_id = fetched
    runner._queues.cancel(job_id)
    await eventually(lambda: len(producer._acker) == 1)
    await producer.stop()
    assert (await house.job(job_id)).state == "cancelled"
    assert ran == []


async def test_what_was_fetched_and_has_not_begun_is_given_back_at_the_end(
    house: House, fetched: tuple[Runner, Producer, int]
) -> None:
    _, producer, job_id = fetched
    producer.quiesce()
    assert await producer.stop() == 1
    job = await house.job(job_id)
    assert (job.state, job.attempt, ran) == ("available", 0, [])


async def test_what_was_fetched_and_has_not_begun_leaves_less_room(fetched: tuple[Runner, Producer, int]) -> None:
    _, producer, _ = fetched
    assert producer._demand() == 9
    assert not producer.idle()


async def test_what_was_fetched_is_begun_though_the_next_statement_fails(
    house: House, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs don't wait for the database to come back before they begin."""
    exchange, failed = Tables.exchange, []

    async def second_fails(self: Tables, outcomes: Any, demand: int, *place: Any) -> Any:
        if outcomes and len(failed) < 3:
            failed.append(len(ran))
            raise ConnectionError("the network is gone")
        return await exchange(self, outcomes, demand, *place)

    monkeypatch.setattr(Tables, "exchange", second_fails)
    ids = await house.enqueue(*(at_once.new() for _ in range(64)))
    async with house.runner(queues={"default": 64}, poll_every=60):
        await eventually(lambda: len(failed) >= 1)
        await eventually(lambda: len(ran) == 64)
        await eventually(lambda: len(failed) == 3)
        await house.becomes(ids[-1], "completed", within=20)
    assert ran == sorted(ids)
    assert await house.states() == {"completed": 64}


async def test_what_was_fetched_is_begun_though_this_node_can_not_register_again(
    house: House, at_once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, failed = Producer.register, []

    async def refused(self: Producer) -> None:
        if ran and len(failed) < 3:
            failed.append(len(ran))
            raise ConnectionError("the network is gone")
        await register(self)

    monkeypatch.setattr(Producer, "register", refused)
    monkeypatch.setattr(Producer, "_surely_present", lambda self: not ran)
    await house.enqueue(*(at_once.new() for _ in range(64)))
    async with house.runner(queues={"default": 64}, poll_every=60, heartbeat_every=60, dead_after=600):
        await eventually(lambda: len(failed) == 3)
    assert failed == [32, 64, 64]
    assert await house.states() == {"completed": 64}


async def test_jobs_scheduled_at_infinity_are_put_in_order_with_others(house: House, at_once: Any) -> None:
    first, second = await house.enqueue(at_once.new(), at_once.new())
    await house.sql(
        "UPDATE oban_jobs SET scheduled_at = '-infinity', inserted_at = '-infinity' WHERE id = :id", id=second
    )
    await house.drain()
    assert ran == [second, first]


@pytest.mark.parametrize("busy", [False, True])
async def test_statements_are_planned_anew_again_and_again(
    house: House, registry: Registry, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    planned: list[int] = []
    plan_anew = Tables.plan_anew
    stop = asyncio.Event()

    async def watched(self: Tables) -> None:
        planned.append(1)
        await plan_anew(self)

    @job(registry=registry, max_attempts=1000)
    async def goes_on(job: Job) -> Snooze | None:
        return None if stop.is_set() else Snooze(0)

    monkeypatch.setattr(Tables, "plan_anew", watched)
    monkeypatch.setattr(producer_module, "PLANS_LAST", 0.05)
    if busy:
        await house.enqueue(goes_on.new())
    async with house.runner(poll_every=60 if busy else 0.02, stage_every=0.02):
        await eventually(lambda: len(planned) >= 5)
        stop.set()
