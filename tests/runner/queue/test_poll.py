"""Jobs that no message told of are found, and all that a node at rest asks for them is one statement."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from oban_sa import Runner, job
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.poll import Poll
from oban_sa.runner.queue.producer import Producer
from tests.runner.conftest import Harness
from tests.support import eventually

QUEUES = {f"queue{number}": 2 for number in range(4)}
UNANNOUNCED = "INSERT INTO oban_jobs (worker, queue) VALUES ('noted', :queue)"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues of the producers that have fetched, each time that one did."""
    seen: list[str] = []
    exchange = Tables.exchange

    async def watched(self: Tables, outcomes: Any, demand: int, *rest: Any) -> Any:
        if demand:
            seen.append(self._queue)
        return await exchange(self, outcomes, demand, *rest)

    monkeypatch.setattr(Tables, "exchange", watched)
    return seen


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Of each look at all queues, those in which jobs waited."""
    seen: list[set[str]] = [set()]
    looked = Producer.looked

    def watched(self: Producer, sent_at: float, *, waits: bool, size: int) -> None:
        if self.queue == "queue0":
            seen.append(set())
        if waits:
            seen[-1].add(self.queue)
        looked(self, sent_at, waits=waits, size=size)

    monkeypatch.setattr(Producer, "looked", watched)
    return seen


@pytest.fixture
def ran(harness: Harness) -> list[str]:
    ran: list[str] = []

    @job(registry=harness.registry, name="noted")
    async def noted() -> None:
        ran.append("noted")

    return ran


async def begun(runner: Runner, looks: list[set[str]]) -> int:
    """Wait until each queue has fetched at the start, and again since it listens: how many looks there were by then."""
    await eventually(lambda: runner._notifier.proven)
    before = len(looks)
    await eventually(lambda: len(looks) > before + 2)
    return len(looks)


async def test_queues_at_rest_are_looked_at_together_and_fetch_only_what_waits(
    harness: Harness, ran: list[str], asked: list[str], looks: list[set[str]]
) -> None:
    async with harness.runner(queues=QUEUES, poll_every=0.2) as runner:
        await begun(runner, looks)
        for _ in range(10):  # on a busy machine a look may come so late that queues fetch for themselves
            before = len(looks)
            asked.clear()
            await eventually(lambda before=before: len(looks) > before + 5)
            if not asked:
                break
        assert asked == []
        await harness.sql(UNANNOUNCED, queue="queue1")
        await harness.sql(UNANNOUNCED, queue="queue3")
        await eventually(lambda: len(ran) == 2)
        assert set(asked) == {"queue1", "queue3"} == set().union(*looks)


async def test_a_job_that_no_fetch_takes_wakes_no_queue(
    harness: Harness, asked: list[str], looks: list[set[str]]
) -> None:
    await harness.sql("INSERT INTO oban_jobs (worker, queue, attempt, max_attempts) VALUES ('spent', 'queue0', 3, 3)")
    async with harness.runner(queues=QUEUES, poll_every=0.2) as runner:
        await begun(runner, looks)
        for _ in range(10):  # on a busy machine a look may come so late that queues fetch for themselves
            before = len(looks)
            asked.clear()
            await eventually(lambda before=before: len(looks) > before + 5)
            if not asked:
                break
        assert asked == []


@pytest.mark.parametrize("look", ["fails", "hangs"])
async def test_a_queue_polls_by_itself_where_the_look_at_all_queues_does_not_succeed(
    harness: Harness, ran: list[str], monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    tick = Poll.tick

    async def fails(self: Poll) -> float:
        async def fetch(*given: Any, **values: Any) -> Any:
            raise ConnectionResetError("gone")

        monkeypatch.setattr(self, "_line", type("Line", (), {"fetch": staticmethod(fetch), "close": self._line.close}))
        return await tick(self)

    async def hangs(self: Poll) -> float:
        await asyncio.sleep(60)
        return 60

    monkeypatch.setattr(Poll, "tick", fails if look == "fails" else hangs)
    async with harness.runner(queues=QUEUES, poll_every=0.2):
        for queue in QUEUES:
            await harness.sql(UNANNOUNCED, queue=queue)
        await eventually(lambda: len(ran) == len(QUEUES))


async def test_full_and_paused_queues_are_not_looked_at(harness: Harness, looks: list[set[str]]) -> None:
    go = asyncio.Event()

    @job(registry=harness.registry, name="waits")
    async def waits() -> None:
        await go.wait()

    async with harness.runner(queues=QUEUES, poll_every=0.02) as runner:
        await eventually(lambda: len(looks) > 2)
        runner._queues.pause("queue2")
        await harness.sql("INSERT INTO oban_jobs (worker, queue) SELECT 'waits', 'queue1' FROM generate_series(1, 3)")
        await eventually(lambda: len(runner._queues.serving["queue1"].running) == 2)
        await harness.sql("INSERT INTO oban_jobs (worker, queue) VALUES ('waits', 'queue2')")
        before = len(looks)
        await eventually(lambda: len(looks) > before + 5)
        assert set().union(*looks[before + 1 :]) == set()
        go.set()
        runner._queues.resume("queue2")
        await eventually(lambda: not any(producer.running for producer in runner._queues.all))

        async def done() -> None:
            assert await harness.states() == {"completed": 4}

        await eventually(done)
