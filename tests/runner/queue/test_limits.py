"""Limits in the fetch: the global limit and the rate of a queue, by the statements of producers and by runners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Job, Oban, Queue, Runner, job, telemetry
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.limits import Limits, Rate
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.limits import Limited
from tests.runner.conftest import Harness
from tests.support import eventually


class Node:
    """A producer's statements, and what their answers tell of its limits."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.limited: Limited | None = None

    def limit(self, **limits: Any) -> None:
        self.limited = Limited(Limits(**limits), "default", telemetry.Source(node="n")) if limits else None
        self.tables.limit(self.limited)

    async def fetch(self, demand: int, *ended: Any, error: str | None = None) -> list[Any]:
        """Fetch in one statement with the outcomes of rows that have ended."""
        acked, rows = await self.tables.exchange([outcome(row, error) for row in ended], demand)
        assert sorted(acked) == sorted(row["id"] for row in ended)
        return rows


def outcome(row: Any, error: str | None = None) -> Outcome:
    said = Verdict(row["id"], row["attempt"], JobState.COMPLETED, error=error, attempted_at=row["attempted_at"])
    return Outcome(Running.of(Job("worker", id=row["id"])), said)


@asynccontextmanager
async def nodes(harness: Harness, count: int, **limits: Any) -> AsyncIterator[list[Node]]:
    made: list[Node] = []
    try:
        for number in range(count):
            uuid, name = new_producer(), f"node{number}"
            tables = Tables(Database(harness.engine), "default", [name, str(uuid)], schema="public")
            await tables.register({"uuid": uuid, "name": "Oban", "node": name, "queue": "default", "meta": "{}"})
            made.append(Node(tables))
            made[-1].limit(**limits)
        yield made
    finally:
        for node in made:
            await node.tables.close()


async def waiting(harness: Harness, count: int = 1) -> None:
    """Statements wait for a lock."""
    [(found,)] = await harness.sql(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    assert found == count


# The global limit


async def test_nodes_together_take_no_more_than_the_global_limit(harness: Harness) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(20)))
    async with nodes(harness, 3, global_limit=7) as made:
        taken = await asyncio.gather(*(node.fetch(4) for node in made))
        assert sorted(map(len, taken)) == [0, 3, 4]
        assert [node.limited.granted for node in made if node.limited] != [4, 4, 4]
    assert await harness.states() == {"executing": 7, "available": 13}


async def test_a_limit_is_of_one_queue(harness: Harness) -> None:
    await harness.enqueue(*(Job("worker", queue=queue) for queue in ("default", "other") for _ in range(3)))
    await harness.sql("UPDATE oban_jobs SET state = 'executing' WHERE queue = 'other'")
    async with nodes(harness, 1, global_limit=2) as [node]:
        assert len(await node.fetch(5)) == 2


async def test_jobs_that_other_programs_execute_count(harness: Harness) -> None:
    ids = await harness.enqueue(*(Job("worker") for _ in range(9)))
    await harness.sql(
        "UPDATE oban_jobs SET state = 'executing', attempted_by = '{elixir@host}' WHERE id = ANY(:ids)", ids=ids[:4]
    )
    async with nodes(harness, 1, global_limit=5) as [node]:
        assert len(await node.fetch(5)) == 1
        # Deleted or cancelled by hand they free what they held.
        await harness.sql("DELETE FROM oban_jobs WHERE id = :id", id=ids[0])
        await harness.sql("UPDATE oban_jobs SET state = 'cancelled' WHERE id = :id", id=ids[1])
        assert len(await node.fetch(5)) == 2


@pytest.mark.parametrize("error", [None, "said"])
async def test_the_outcomes_of_a_statement_free_their_slots_for_its_fetch(harness: Harness, error: str | None) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(300)))
    async with nodes(harness, 2, global_limit=60) as [one, other]:
        mine = [*await one.fetch(60), *await one.fetch(60)]
        assert len(mine) == 60
        for count in (1, 20, 60):
            assert await other.fetch(50) == []
            more = await one.fetch(60, *mine[:count], error=error)
            assert len(more) == count
            mine = mine[count:] + more
            assert (await harness.states())["executing"] == 60


async def test_a_fetch_counts_what_others_took_while_it_waited(harness: Harness) -> None:
    """Its statement began before: a count by its own snapshot would find the slots still free."""
    ids = await harness.enqueue(*(Job("worker") for _ in range(9)))
    async with nodes(harness, 1, global_limit=4) as [node]:
        async with harness.sessions.begin() as session:
            await session.execute(text("SELECT oban_sa_free('default', 4)"))
            fetching = asyncio.create_task(node.fetch(9))
            await eventually(lambda: waiting(harness))
            await session.execute(
                text("UPDATE oban_jobs SET state = 'executing' WHERE id = ANY(:ids)"), {"ids": ids[-3:]}
            )
        assert len(await fetching) == 1


async def test_what_waits_for_a_limit_has_picked_nothing(harness: Harness) -> None:
    """Else an ack could wait for its row, and the fetch for the lock that the ack's statement has."""
    await harness.enqueue(*(Job("worker") for _ in range(9)))
    async with nodes(harness, 1, global_limit=4, rate=Rate(9, per=60)) as [node]:
        for lock in (
            "SELECT oban_sa_free('default', 4)",
            "SELECT oban_sa_rate('queue:default', '', 9, 60, 'sliding', NULL, NULL, NULL, NULL)",
        ):
            async with harness.sessions.begin() as session:
                await session.execute(text(lock))
                fetching = asyncio.create_task(node.fetch(1))
                await eventually(lambda: waiting(harness))
                available = "SELECT id FROM oban_jobs WHERE state = 'available' FOR UPDATE NOWAIT"
                assert len((await session.execute(text(available))).all()) >= 8
            assert len(await fetching) <= 1


async def test_a_job_begins_after_the_locks_were_taken(harness: Harness) -> None:
    await harness.enqueue(Job("worker"))
    async with nodes(harness, 1, rate=Rate(9, per=60)) as [node]:
        async with harness.sessions.begin() as session:
            await session.execute(
                text("SELECT oban_sa_rate('queue:default', '', 9, 60, 'sliding', NULL, NULL, NULL, NULL)")
            )
            fetching = asyncio.create_task(node.fetch(1))
            await eventually(lambda: waiting(harness))
            moment = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
        [row] = await fetching
        assert row["attempted_at"] > moment


async def test_a_producer_without_its_row_takes_and_spends_nothing(harness: Harness) -> None:
    await harness.enqueue(Job("worker"))
    async with nodes(harness, 1, global_limit=4, rate=Rate(9, per=60)) as [node]:
        await harness.sql("DELETE FROM oban_producers")
        assert await node.fetch(5) == []
    assert await harness.sql("SELECT counts FROM oban_sa_rates WHERE counts <> '{}'") == []


async def test_limits_hold_whatever_the_role_has_as_isolation_level(harness: Harness) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(3)))
    name = harness.engine.url.database
    await harness.sql(f'ALTER DATABASE "{name}" SET default_transaction_isolation = "repeatable read"')
    async with nodes(harness, 1, global_limit=2) as [node]:
        assert len(await node.fetch(5)) == 2


async def test_limits_may_change_between_two_fetches(harness: Harness) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(30)))
    async with nodes(harness, 1) as [node]:
        assert len(await node.fetch(5)) == 5
        node.limit(global_limit=3)
        assert await node.fetch(5) == []
        node.limit(global_limit=7)
        assert len(await node.fetch(5)) == 2
        node.limit(global_limit=20, rate=Rate(4, per=60))
        assert len(await node.fetch(9)) == 4
        assert await node.fetch(9) == []
        node.limit()
        assert len(await node.fetch(9)) == 9


# The rate


@pytest.mark.parametrize("algorithm", ["sliding", "fixed", "bucket"])
async def test_nodes_together_start_no_more_than_the_rate(harness: Harness, algorithm: Any) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(20)))
    async with nodes(harness, 4, rate=Rate(7, per=3600, algorithm=algorithm)) as made:
        taken = await asyncio.gather(*(node.fetch(4) for node in made))
        assert sum(map(len, taken)) == 7
        assert await made[0].fetch(4) == []
        assert made[0].limited is not None
        assert made[0].limited.spent


async def test_every_start_counts_also_that_of_a_retry(harness: Harness) -> None:
    await harness.enqueue(Job("worker"))
    async with nodes(harness, 1, rate=Rate(3, per=3600)) as [node]:
        for _ in range(3):
            assert len(await node.fetch(1)) == 1
            await harness.sql("UPDATE oban_jobs SET state = 'available'")
        assert await node.fetch(1) == []


async def test_a_rate_counts_weights_in_the_order_of_the_queue(harness: Harness) -> None:
    points = [4, 1, "5", 9, 1, None, 2.5, 50]
    await harness.enqueue(*(Job("worker", args={"points": each}, priority=n) for n, each in enumerate(points)))
    async with nodes(harness, 1, rate=Rate(10, per=3600, weight="args.points")) as [node]:
        # 4, 1, and one that says no number, is 6: the one of 9 waits, and those behind it with it.
        assert [row["priority"] for row in await node.fetch(8)] == [0, 1, 2]
        assert node.limited is not None
        assert (node.limited.granted, node.limited.spent) == (3, True)
        assert await node.fetch(8) == []
        await harness.sql("DELETE FROM oban_sa_rates")
        assert [row["priority"] for row in await node.fetch(8)] == [3, 4]
        await harness.sql("DELETE FROM oban_sa_rates")
        # One that is heavier than the rate takes all of it.
        assert [row["priority"] for row in await node.fetch(8)] == [5, 6]
        await harness.sql("DELETE FROM oban_sa_rates")
        assert [row["priority"] for row in await node.fetch(8)] == [7]


async def test_weights_may_lie_in_the_meta_of_jobs(harness: Harness) -> None:
    await harness.enqueue(*(Job("worker", meta={"cost": {"calls": 4}}) for _ in range(5)))
    async with nodes(harness, 1, rate=Rate(10, per=3600, weight="meta.cost.calls"), global_limit=1) as [node]:
        assert len(await node.fetch(5)) == 1
        assert node.limited is not None
        assert not node.limited.spent
        node.limit(rate=Rate(10, per=3600, weight="meta.cost.calls"))
        assert len(await node.fetch(5)) == 1
        assert await node.fetch(5) == []


# Runners: when they fetch again


QUIET: dict[str, Any] = {"poll_every": 60, "heartbeat_every": 20, "dead_after": 120, "stage_every": 0.2}
"""Nothing is found by polling while a test runs."""


@asynccontextmanager
async def runners(harness: Harness, count: int, **limits: Any) -> AsyncIterator[list[Runner]]:
    options = {**harness.options, **QUIET, "registry": harness.registry, "queues": {"default": Queue(10, **limits)}}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Runner(harness.engine, **{**options, "node": f"node{number}"}))
            for number in range(count)
        ]


@dataclass
class Gate:
    """Jobs that run until they are let go."""

    harness: Harness
    running: list[int] = field(default_factory=list)
    most: int = 0
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        @job(registry=self.harness.registry, name="gated")
        async def gated(current: Job) -> None:
            await self.run(current.id)

        @job(registry=self.harness.registry, name="gated_session")
        async def gated_session(current: Job, session: AsyncSession) -> None:
            await session.execute(select(1))
            await self.run(current.id)

    async def run(self, job_id: int) -> None:
        self.running.append(job_id)
        self.most = max(self.most, len(self.running))
        await eventually(lambda: job_id in self.gone, 20)
        self.running.remove(job_id)

    async def run_are(self, count: int) -> list[int]:
        await eventually(lambda: len(self.running) == count)
        return list(self.running)


@pytest.fixture
def gate(harness: Harness) -> Gate:
    return Gate(harness)


@pytest.mark.parametrize("worker", ["gated", "gated_session"])
async def test_a_slot_that_is_freed_is_filled_without_polling(harness: Harness, gate: Gate, worker: str) -> None:
    """Also where the outcome is committed by the session of the job, and no statement of its producer frees it."""
    ids = await harness.enqueue(*(Job(worker) for _ in range(5)))
    async with runners(harness, 2, global_limit=2):
        while len(gate.gone) < len(ids):
            running = await gate.run_are(min(2, len(ids) - len(gate.gone)))
            gate.gone.add(running[0])
            await harness.becomes(running[0], "completed")
    assert gate.most == 2


@pytest.mark.parametrize("worker", ["gated", "gated_session"])
async def test_a_slot_that_its_node_does_not_fill_is_filled_by_another_one(
    harness: Harness, gate: Gate, worker: str
) -> None:
    async with runners(harness, 2, global_limit=1) as [one, other]:
        other._queues.pause("default")
        first, second = await harness.enqueue(Job(worker), Job(worker))
        await gate.run_are(1)
        other._queues.resume("default")
        [producer] = other._queues.all
        await eventually(lambda: producer._cycle.limited is not None and producer._cycle.limited.granted == 0)
        await asyncio.sleep(0.1)
        one._queues.pause("default")
        gate.gone.add(first)
        await harness.becomes(first, "completed")
        assert await gate.run_are(1) == [second]
        gate.gone.add(second)
        await harness.becomes(second, "completed")


async def test_slots_of_a_node_that_stops_are_filled_by_another_one(harness: Harness, gate: Gate) -> None:
    async with runners(harness, 1, global_limit=1) as [other]:
        other._queues.pause("default")
        async with runners(harness, 1, global_limit=1):
            first, second = await harness.enqueue(Job("gated"), Job("gated"))
            await gate.run_are(1)
            other._queues.resume("default")
            [producer] = other._queues.all
            await eventually(lambda: not producer._cycle.hungry)
            gate.gone.add(first)
        assert await gate.run_are(1) == [second]
        gate.gone.add(second)
        await harness.becomes(second, "completed")


async def test_limits_change_while_a_runner_works(
    harness: Harness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUIET, "heartbeat_every", 0.1)
    oban = Oban(harness.engine)
    ids = await harness.enqueue(*(Job("gated") for _ in range(12)))
    async with runners(harness, 2) as made:

        async def limited(**limits: Any) -> None:
            await oban.limit_queue("default", **limits)
            given = {name: value for name, value in limits.items() if value is not None}
            expected = Limits(**given) if given else None
            await eventually(lambda: all(runner._queues.serving["default"].limits == expected for runner in made))

        await gate.run_are(12)
        await limited(global_limit=3)
        more = await harness.enqueue(*(Job("gated") for _ in range(12)))
        gate.gone.update(ids)
        await gate.run_are(3)
        assert (await harness.states())["available"] == 9
        await limited(global_limit=7)
        await gate.run_are(7)
        await limited(global_limit=None, rate=Rate(2, per=3600))
        await gate.run_are(9)
        await limited(global_limit=None, rate=None)
        await gate.run_are(12)
        gate.gone.update(more)
        await harness.becomes(more[-1], "completed")
    assert await harness.states() == {"completed": 24}


async def test_a_queue_sleeps_until_its_rate_has_more(harness: Harness, gate: Gate, of: Any) -> None:
    ids = await harness.enqueue(*(Job("gated") for _ in range(7)))
    gate.gone.update(ids)
    async with runners(harness, 2, rate=Rate(2, per=0.5, algorithm="fixed")):
        await eventually(lambda: len(of(telemetry.JobStop)) == 7)
        # Each node looks when there is more, and once more when the outcomes of what it did are written.
        assert len(of(telemetry.ProducerFetch)) < 40
    starts = sorted(row.attempted_at for row in await harness.sql("SELECT attempted_at FROM oban_jobs"))
    assert (starts[-1] - starts[0]).total_seconds() > 1


@pytest.mark.parametrize("limits", [{"global_limit": 1}, {"rate": Rate(1, per=3600)}], ids=["global", "rate"])
async def test_a_queue_at_its_limit_does_not_spin(
    harness: Harness, gate: Gate, of: Any, limits: dict[str, Any]
) -> None:
    ids = await harness.enqueue(*(Job("gated") for _ in range(5)))
    async with runners(harness, 2, **limits) as made:
        await gate.run_are(1)
        await asyncio.sleep(0.2)
        before = len(of(telemetry.ProducerFetch))
        await asyncio.sleep(0.5)
        if "rate" in limits:
            # Neither news of jobs nor a look changes that the rate is spent.
            for _ in range(3):
                await harness.enqueue(Job("gated"))
                for runner in made:
                    runner._queues.nudge("default")
                await asyncio.sleep(0.05)
        assert len(of(telemetry.ProducerFetch)) - before <= 2
        gate.gone.update(ids)
        await eventually(lambda: len(of(telemetry.JobStop)) == (5 if "global_limit" in limits else 1))


async def test_outcomes_are_written_while_another_node_keeps_the_queue_locked(harness: Harness, gate: Gate) -> None:
    async with runners(harness, 1, global_limit=2):
        first, second = await harness.enqueue(Job("gated"), Job("gated"))
        await gate.run_are(2)
        async with harness.sessions.begin() as session:
            await session.execute(text("SELECT oban_sa_free('default', 2)"))
            third, *_ = await harness.enqueue(Job("gated"))
            gate.gone.update([first, second, third])
            await harness.becomes(first, "completed")
            await harness.becomes(second, "completed")
            assert (await harness.job(third)).state == "available"
        await harness.becomes(third, "completed")
