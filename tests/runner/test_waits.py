"""Waiting without a slot: sleeps, signals before, during and after a wait, and none lost or taken twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Oban, Signal, Workflow, current_job, enqueue, signal, sleep, step, telemetry, wait_for
from oban_sa.errors import JobNotFound, JobOver, Suspended
from oban_sa.sql.workflow import sweep
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness
from tests.support import eventually

RANDOM_SIGNALS = int(os.environ.get("OBAN_TEST_SIGNALS", "200"))


async def send(harness: Harness, job_id: int, name: str, payload: object = None) -> None:
    async with harness.sessions.begin() as session:
        signal(session, job_id, name, payload)


async def test_a_sleep_ends_the_attempt_and_the_next_one_comes_past_it(
    harness: Harness, registry: Registry, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    ran: list[int] = []

    @job(registry=registry, max_attempts=1)
    async def work() -> None:
        ran.append(current_job().attempt)
        await sleep("rest", "1 day")
        await sleep("rest", 0)

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        waiting = await harness.becomes(job_id, "scheduled")
        [(left,)] = await harness.sql("SELECT extract(epoch FROM scheduled_at - timezone('UTC', now())) FROM oban_jobs")
        assert 86_000 < left <= 86_400
        assert waiting.attempt == 0
        assert waiting.meta["wait_until"] == pytest.approx(waiting.scheduled_at.timestamp() * 1000, abs=10_000)
        await harness.sql("UPDATE oban_sa_journal SET until = until - interval '1 day'")
        await harness.sql("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '1 day'")
        done = await harness.becomes(job_id, "completed")
    assert (ran, done.attempt, done.errors) == ([1, 1], 1, [])
    assert (done.meta["wait_until"], done.meta["waits_for"]) == (None, None)
    [suspended] = of(telemetry.Suspended)
    assert (suspended.signal, suspended.job_id) == (None, job_id)


async def test_a_sleep_in_a_thread_and_one_that_ended_while_no_node_lived(harness: Harness, registry: Registry) -> None:
    ran: list[str] = []

    @job(registry=registry)
    def work() -> None:
        ran.append("before")
        sleep("rest", 3600)
        ran.append("after")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "scheduled")
    await harness.sql("UPDATE oban_sa_journal SET until = until - interval '2 hours'")
    await harness.sql("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 hours'")
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert ran == ["before", "before", "after"]


async def test_a_job_that_is_made_available_too_early_goes_on_sleeping(harness: Harness, registry: Registry) -> None:
    ran = Counter[str]()

    @job(registry=registry)
    async def work() -> None:
        ran["begun"] += 1
        await sleep("rest", "1 hour")
        ran["ended"] += 1

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "scheduled")
        await Oban(harness.engine).retry_job(job_id)
        await eventually(lambda: ran["begun"] == 2)
        await harness.becomes(job_id, "scheduled")
    assert ran == {"begun": 2}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("within", [None, "1 day"])
async def test_a_signal_is_taken_whenever_it_was_sent(
    harness: Harness, registry: Registry, when: str, within: str | None
) -> None:
    got: list[Signal | None] = []

    @job(registry=registry, max_attempts=1)
    async def work() -> None:
        got.append(await wait_for("approval", within=within))

    [job_id] = await harness.enqueue(work.new())
    if when == "before":
        await send(harness, job_id, "approval", {"ok": True})
    async with harness.runner():
        if when == "after":
            waiting = await harness.becomes(job_id, "suspended" if within is None else "scheduled")
            assert (waiting.meta["wait_until"] == "infinity") is (within is None)
            await send(harness, job_id, "other")
            await send(harness, job_id, "approval", {"ok": True})
        done = await harness.becomes(job_id, "completed")
    [received] = got
    assert received is not None
    assert (received.name, received.payload) == ("approval", {"ok": True})
    assert abs(received.sent_at - done.inserted_at) < timedelta(minutes=5)
    left = await harness.sql("SELECT name FROM oban_sa_signals")
    assert [row[0] for row in left] == (["other"] if when == "after" else [])
    assert await harness.sql("SELECT * FROM oban_sa_endings") == []


async def test_a_signal_that_was_booked_while_the_job_was_still_executing_wakes_it(
    harness: Harness, registry: Registry
) -> None:
    """It came after the job had looked for one, and before the job said that it waits."""
    ran = Counter[str]()

    @job(registry=registry)
    async def work() -> None:
        ran["begun"] += 1
        try:
            await wait_for("go")
        except Suspended:
            await send(harness, current_job().id, "go")
            await eventually(lambda: nothing_noted(harness))
            raise

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert ran == {"begun": 2}


async def test_signals_are_taken_in_order_and_a_retry_gets_the_same_ones(harness: Harness, registry: Registry) -> None:
    got: list[object] = []

    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        signals = [await wait_for("part") for _ in range(3)]
        got.append([each and each.payload for each in signals])
        if current_job().attempt == 1:
            raise RuntimeError

    [job_id] = await harness.enqueue(work.new())
    for number in range(4):
        await send(harness, job_id, "part", number)
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert got == [[0, 1, 2]] * 2


async def test_the_time_that_is_up_is_journalled_and_counts_from_the_first_wait(
    harness: Harness, registry: Registry, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    got: list[Signal | None] = []

    @job(registry=registry, backoff=60)
    async def work() -> None:
        got.append(await wait_for("approval", within="1 hour"))
        if current_job().attempt == 1:
            raise RuntimeError

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "scheduled")
        # Woken for nothing, it does not begin to count anew.
        await harness.sql("UPDATE oban_sa_journal SET until = until - interval '30 minutes'")
        await Oban(harness.engine).retry_job(job_id)
        await eventually(lambda: len(of(telemetry.Suspended)) == 2)
        assert of(telemetry.Suspended)[1].delay < 1900
        await harness.becomes(job_id, "scheduled")
        await harness.sql("UPDATE oban_sa_journal SET until = until - interval '1 hour'")
        await Oban(harness.engine).retry_job(job_id)
        await eventually(lambda: got == [None])
        await harness.becomes(job_id, "retryable")
        await send(harness, job_id, "approval")
        await Oban(harness.engine).retry_job(job_id)
        await harness.becomes(job_id, "completed")
    assert got == [None, None]
    assert [each.timed_out for each in of(telemetry.SignalReceived)] == [True]


async def test_what_a_session_has_not_committed_rolls_back_at_a_suspension(
    harness: Harness, registry: Registry
) -> None:
    await harness.sql("CREATE TABLE effects (name text)")
    insert = text("INSERT INTO effects VALUES (:name)")

    async def kept(session: AsyncSession) -> None:
        await session.execute(insert, {"name": "kept"})

    @job(registry=registry)
    async def work(session: AsyncSession) -> None:
        await step.commit(session, "keep", kept)
        await session.execute(insert, {"name": "lost"})
        await wait_for("go")
        await session.rollback()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "suspended")
        await send(harness, job_id, "go")
        await harness.becomes(job_id, "completed")
    assert [tuple(row) for row in await harness.sql("SELECT * FROM effects")] == [("kept",)]


async def test_a_job_that_is_asked_to_stop_as_it_is_suspended_is_cancelled(
    harness: Harness, registry: Registry, undecided: None
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @job(registry=registry, cancel="ask")
    async def work() -> None:
        begun.set()
        await go.wait()
        await wait_for("never")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await begun.wait()
        # As if the message came too late.
        mark = "jsonb_build_object('cancel_attempted_at', '2999-01-01')"
        await harness.sql(f"UPDATE oban_jobs SET meta = meta || {mark}")
        go.set()
        await harness.becomes(job_id, "cancelled")


async def test_a_waiting_job_can_be_cancelled_and_takes_no_signal_then(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work() -> None:
        await wait_for("never")

    [job_id] = await harness.enqueue(work.new())
    oban = Oban(harness.engine)
    async with harness.runner():
        await harness.becomes(job_id, "suspended")
        await oban.cancel_job(job_id)
        with pytest.raises(JobOver, match=f"job {job_id} is cancelled"):
            await oban.signal(job_id, "never")
        with pytest.raises(JobOver):
            await send(harness, job_id, "never")
        with pytest.raises(JobNotFound):
            await oban.signal(job_id + 1, "never")
    assert await harness.sql("SELECT * FROM oban_sa_signals") == []


async def test_a_signal_of_a_transaction_that_rolls_back_wakes_nothing(harness: Harness, registry: Registry) -> None:
    ran = Counter[str]()

    @job(registry=registry)
    async def work() -> None:
        ran["begun"] += 1
        await wait_for("go")

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "suspended")
        async with harness.sessions() as session:
            signal(session, job_id, "go")
            await session.flush()
            await session.rollback()
        await send(harness, job_id, "go")
        await harness.becomes(job_id, "completed")
    assert ran["begun"] == 2


async def test_a_waiting_member_of_a_workflow_is_not_released_by_what_books_the_flow(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oban_sa.runner.maintenance.settler.SWEEP_EVERY", 0.05)
    monkeypatch.setattr("oban_sa.runner.maintenance.settler.EVERY", 0.05)
    ran = Counter[str]()

    @job(registry=registry)
    async def ask() -> None:
        ran["ask"] += 1
        await wait_for("go")

    @job(registry=registry)
    async def after() -> None:
        ran["after"] += 1

    @job(registry=registry)
    async def other() -> None: ...

    flow = Workflow("asks")
    flow.add("ask", ask.new())
    flow.add("after", after.new(), deps=["ask"])
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    [(job_id,)] = await harness.sql("SELECT job_id FROM oban_sa_members WHERE name = 'ask'")
    async with harness.runner():
        await harness.becomes(job_id, "suspended")
        for _ in range(3):
            [other_id] = await harness.enqueue(other.new())
            await harness.becomes(other_id, "completed")
            await harness.sql(
                "INSERT INTO oban_sa_endings (lane, job_id) SELECT f.lane, m.job_id "
                "FROM oban_sa_members m JOIN oban_sa_flows f ON f.id = m.flow_id"
            )
            await eventually(lambda: nothing_noted(harness))
        assert ran == {"ask": 1}
        async with harness.engine.connect() as connection:
            [swept] = await connection.execute(
                sweep("public"), {"after_flow": UUID(int=0), "after_name": "", "limit": 10}
            )
            assert swept.noted == 0
        await send(harness, job_id, "go")
        await eventually(lambda: ran["after"] == 1)


async def nothing_noted(harness: Harness) -> None:
    assert await harness.sql("SELECT * FROM oban_sa_endings") == []


async def test_a_thousand_waiting_jobs_leave_the_slot_of_their_queue_free(harness: Harness, registry: Registry) -> None:
    got = Counter[object]()

    @job(registry=registry)
    async def ask() -> None:
        answer = await wait_for("go")
        got[answer and answer.payload] += 1

    @job(registry=registry)
    async def plain() -> None: ...

    await harness.enqueue(*(ask.new() for _ in range(1000)))
    async with harness.runner(queues={"default": 1}):
        await eventually(lambda: suspended(harness, 1000), 120)
        [job_id] = await harness.enqueue(plain.new())
        await harness.becomes(job_id, "completed")
        async with harness.sessions.begin() as session:
            for (waiting,) in await harness.sql("SELECT id FROM oban_jobs WHERE state = 'suspended' LIMIT 100"):
                signal(session, waiting, "go", 1)
        await eventually(lambda: got == {1: 100}, 60)


async def suspended(harness: Harness, count: int) -> None:
    assert (await harness.states()).get("suspended") == count


async def test_signals_at_random_moments_are_all_taken_once(harness: Harness, registry: Registry) -> None:
    """Before, during and after the wait, in transactions that are held open, with two nodes that book."""
    got: list[tuple[int, object]] = []
    chance = random.Random(11)

    @job(registry=registry)
    async def ask(pause: float) -> None:
        await asyncio.sleep(pause)
        answer = await wait_for("go")
        got.append((current_job().id, answer and answer.payload))

    ids = await harness.enqueue(*(ask.new(chance.uniform(0, 0.03)) for _ in range(RANDOM_SIGNALS)))
    gate = asyncio.Semaphore(8)

    async def tell(job_id: int) -> None:
        await asyncio.sleep(chance.uniform(0, RANDOM_SIGNALS / 150))
        async with gate, harness.sessions.begin() as session:
            signal(session, job_id, "go", job_id)
            await session.flush()
            await asyncio.sleep(chance.uniform(0, 0.006))

    async with harness.runner(node="a"), harness.runner(node="b"):
        await asyncio.gather(*(tell(job_id) for job_id in ids))

        async def all_completed() -> None:
            assert await harness.states() == {"completed": RANDOM_SIGNALS}

        await eventually(all_completed, 120)
    assert sorted(got) == [(job_id, job_id) for job_id in sorted(ids)]
    assert await harness.sql("SELECT * FROM oban_sa_signals") == []
    [(taken,)] = await harness.sql("SELECT count(*) FROM oban_sa_journal WHERE done AND code = 'wait_for'")
    assert taken == RANDOM_SIGNALS
