"""A message of one job makes few nodes fetch, and no job waits because those are full, paused, stopped or dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from oban_sa import Job, Runner, job
from oban_sa.runner.queue import election
from oban_sa.runner.queue.election import FEW, LOOK_AFTER, Election, Rank, called
from oban_sa.runner.queue.exchange import Tables
from oban_sa.schedule import clock
from oban_sa.sql import notify
from oban_sa.wire.messages import News
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import eventually

NODES = 6
RARELY: dict[str, Any] = {"poll_every": 60, "stage_every": 60, "heartbeat_every": 0.5, "dead_after": 60}
"""Nothing is found by polling within a test."""


def delays(nodes: int, news: News) -> list[float | None]:
    return [called(Rank(number, nodes, 0.0), news) for number in range(nodes)]


@pytest.mark.parametrize("turn", [0, 1, 5, 7, 999_999])
@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 8, 20])
@pytest.mark.parametrize("jobs", [1, 2, 3, 10, 100])
def test_as_many_nodes_are_called_as_there_are_jobs_and_two_at_least(turn: int, nodes: int, jobs: int) -> None:
    found = delays(nodes, News(jobs, turn=turn))
    at_once = min(max(jobs, FEW), nodes)
    assert found.count(0) == at_once
    later = sorted(delay for delay in found if delay)
    assert later == list(LOOK_AFTER[: nodes - at_once])


def test_all_nodes_are_called_in_turn() -> None:
    for nodes in (3, 7, 20):
        firsts = [delays(nodes, News(1, turn=turn)) for turn in range(nodes)]
        assert [sum(found[number] == 0 for found in firsts) for number in range(nodes)] == [FEW] * nodes


@pytest.mark.parametrize(
    ("rank", "news", "fetches"),
    [
        (None, News(1), True),
        (Rank(3, 9, -1.0), News(1), True),  # it was found out too long ago
        (Rank(3, 9, 9e9), News(None), True),  # of another member of the family, or of a node that calls all
        (Rank(3, 9, 9e9), News(9), True),
        (Rank(3, 9, 9e9), News(1, turn=3), True),
        (Rank(3, 9, 9e9), News(1, turn=4), False),
        (Rank(3, 9, 9e9), News(0, due=True), False),
        (None, News(0, due=True), False),
    ],
)
async def test_a_node_fetches_at_once_unless_it_knows_that_others_do(
    rank: Rank | None, news: News, fetches: bool
) -> None:
    fetched: list[bool] = []
    made = Election(
        fetch=lambda: fetched.append(True),
        emptied_at=lambda: 0.0,
        is_fetching=lambda: False,
        leaves_some=lambda: False,
        call_all=lambda: None,
    )
    made.rank = rank
    made.hear(news)
    made.close()
    assert fetched == [True] * fetches


async def test_all_are_called_once_at_most_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all nodes are full, each job would else have them all called."""
    monkeypatch.setattr(election, "PASS_ON_AFTER", 0.001)
    monkeypatch.setattr(election, "PASS_ON_EVERY", 0.2)
    told: list[float] = []
    made = Election(
        fetch=lambda: None,
        emptied_at=lambda: 0.0,
        is_fetching=lambda: False,
        leaves_some=lambda: True,
        call_all=lambda: told.append(clock.monotonic()),
    )
    made.rank = Rank(0, 9, 9e9)
    while len(told) < 3:
        made.hear(News(1))
        await asyncio.sleep(0.001)
    made.close()
    assert told[2] - told[0] >= 0.39


async def test_a_node_that_has_just_lost_its_rank_still_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may count on it until they read the ranks again."""
    monkeypatch.setattr(election, "PASS_ON_AFTER", 0.001)
    told: list[bool] = []
    made = Election(
        fetch=lambda: None,
        emptied_at=lambda: 0.0,
        is_fetching=lambda: False,
        leaves_some=lambda: True,
        call_all=lambda: told.append(True),
    )
    made.ranked(Rank(5, 9, 9e9))
    made.ranked(None)
    made.hear(News(1))
    await eventually(lambda: told == [True])
    made.close()


async def test_what_a_fetch_leaves_is_passed_on_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that looked before the answer would find that it takes all, and tell no other node."""
    monkeypatch.setattr(election, "PASS_ON_AFTER", 0.001)
    fetching, told = [True], list[bool]()
    made = Election(
        fetch=lambda: None,
        emptied_at=lambda: 0.0,
        is_fetching=lambda: fetching[0],
        leaves_some=lambda: not fetching[0],
        call_all=lambda: told.append(True),
    )
    made.ranked(Rank(0, 9, 9e9))
    made.hear(News(1))
    await asyncio.sleep(0.05)
    assert told == []
    fetching[0] = False
    await eventually(lambda: told == [True])
    made.close()


class Crowd:
    """Several nodes on one queue, in the order of their ranks."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.runners: list[Runner] = []
        self.fetched: list[str] = []
        """The producers that fetched without having outcomes to write, each time that one did."""
        self.go = asyncio.Event()

        @job(registry=harness.registry, name="noted")
        async def noted() -> None: ...

        @job(registry=harness.registry, name="waits")
        async def waits() -> None:
            await self.go.wait()

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _ in range(NODES):
                given = {**RARELY, "queues": {"default": 1}, **options}
                self.runners.append(await stack.enter_async_context(self.harness.runner(**given)))
            await eventually(lambda: sorted(map(self._number, self.runners)) == list(range(NODES)))
            await eventually(lambda: all(each._notifier.proven for each in self.runners))
            self.runners.sort(key=self._number)
            await asyncio.sleep(0.1)  # the first fetches, and those after listening has begun
            self.fetched.clear()
            try:
                yield
            finally:
                self.go.set()

    def _number(self, runner: Runner) -> int:
        rank = runner._queues.all[0]._election.rank
        return -1 if rank is None or rank.nodes != NODES else rank.number

    async def deafen(self, number: int) -> None:
        """Let the first so many nodes hear no more messages, as if they were dead; their rows look young still."""
        for runner in self.runners[:number]:
            await runner._notifier.stop()

    async def told(self, monkeypatch: pytest.MonkeyPatch, turn: int, *jobs: Job) -> list[int]:
        """Enqueue jobs, whose message says this turn: their ids."""
        monkeypatch.setattr(notify, "_turns", iter([turn]))
        return await self.harness.enqueue(*jobs)

    async def took(self, job_id: int) -> int:
        """Wait until a job has run, and return the rank of the node that took it."""
        done = await self.harness.becomes(job_id, "completed", 20)
        return [str(each._queues.all[0].uuid) for each in self.runners].index(done.attempted_by[1])


@pytest.fixture
def crowd(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    made = Crowd(harness)
    exchange = Tables.exchange

    async def watched(self: Tables, outcomes: Any, demand: int, *rest: Any) -> Any:
        if demand and not outcomes:
            made.fetched.append(self._holder[1])
        return await exchange(self, outcomes, demand, *rest)

    monkeypatch.setattr(Tables, "exchange", watched)
    return made


@pytest.fixture
def passed_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues of which a node called all others."""
    seen: list[str] = []
    announce = Tables.announce

    async def watched(self: Tables) -> None:
        seen.append(self._queue)
        await announce(self)

    monkeypatch.setattr(Tables, "announce", watched)
    return seen


async def test_a_lone_job_makes_few_nodes_fetch_and_others_each_time(
    crowd: Crowd, passed_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(election, "LOOK_AFTER", (3600.0, 3600.0))
    async with crowd.working(queues={"default": 5}):
        for turn in range(NODES):
            [job_id] = await crowd.told(monkeypatch, turn, Job("noted"))
            assert await crowd.took(job_id) in (turn, (turn + 1) % NODES)
        assert len(crowd.fetched) <= NODES * FEW
        assert len(set(crowd.fetched)) == NODES
        assert passed_on == []


async def test_a_message_that_does_not_say_how_many_jobs_there_are_calls_all(crowd: Crowd) -> None:
    async with crowd.working():
        await crowd.harness.sql("SELECT pg_notify('public.oban_insert', '{\"queue\":\"default\"}')")
        await eventually(lambda: len(set(crowd.fetched)) == NODES)


async def test_a_burst_calls_all(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(election, "LOOK_AFTER", (3600.0, 3600.0))
    monkeypatch.setattr(election, "PASS_ON_AFTER", 3600.0)
    async with crowd.working():
        await crowd.told(monkeypatch, 0, *(Job("waits") for _ in range(NODES)))
        await eventually(lambda: all(len(each._queues.all[0].running) == 1 for each in crowd.runners))


async def test_more_jobs_than_the_message_tells_of_are_passed_on(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a transaction announces the first of many flushes."""
    monkeypatch.setattr(election, "LOOK_AFTER", (3600.0, 3600.0))
    async with crowd.working():
        monkeypatch.setattr(notify, "_before_turn", lambda *_: ('{"queue":"default","jobs":1,"turn":', False))
        await crowd.told(monkeypatch, 0, *(Job("waits") for _ in range(NODES)))
        await eventually(lambda: all(len(each._queues.all[0].running) == 1 for each in crowd.runners))


def full(runner: Runner) -> None:
    runner._queues.all[0].limit = 0


def paused(runner: Runner) -> None:
    runner._queues.all[0].paused = True


def stopped(runner: Runner) -> None:
    runner._queues.quiesce()


@pytest.mark.parametrize("kept", [full, paused, stopped])
@pytest.mark.parametrize("free", [2, NODES - 1])
async def test_a_job_for_which_those_called_have_no_room_is_passed_on(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, kept: Callable[[Runner], None], free: int
) -> None:
    """One node alone is free, next in line or not called at all."""
    monkeypatch.setattr(election, "LOOK_AFTER", (3600.0, 3600.0))
    async with crowd.working():
        for number in range(NODES):
            if number != free:
                kept(crowd.runners[number])
        [job_id] = await crowd.told(monkeypatch, 0, Job("noted"))
        assert await crowd.took(job_id) == free


async def test_a_job_whose_nodes_are_dead_is_taken_by_the_next_in_line(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows look young still; they hear nothing, and say nothing."""
    async with crowd.working():
        await crowd.deafen(FEW)
        [job_id] = await crowd.told(monkeypatch, 0, Job("noted"))
        assert await crowd.took(job_id) in (FEW, FEW + 1)


async def test_the_next_in_line_passes_on_what_it_has_no_room_for(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crowd.working():
        await crowd.deafen(FEW)
        for number in range(FEW, NODES - 1):
            full(crowd.runners[number])
        [job_id] = await crowd.told(monkeypatch, 0, Job("noted"))
        assert await crowd.took(job_id) == NODES - 1


async def test_a_paused_node_is_not_counted(crowd: Crowd) -> None:
    async with crowd.working():
        crowd.runners[0]._queues.pause("default")
        await eventually(lambda: crowd.runners[0]._queues.all[0]._election.rank is None)
        rank = await eventually(lambda: crowd.runners[1]._queues.all[0]._election.rank)
        assert rank.number in (0, 1)


async def test_a_job_that_those_called_do_not_know_is_passed_on(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    """One node alone knows the worker, and is never called; the others have met it before."""
    monkeypatch.setattr(election, "LOOK_AFTER", (3600.0, 3600.0))
    knows = crowd.harness.registry
    async with crowd.working(registry=Registry()), crowd.harness.runner(**RARELY, registry=knows) as runner:
        [producer] = runner._queues.all
        for turn in range(NODES):
            [job_id] = await crowd.told(monkeypatch, turn, Job("noted"))
            assert (await crowd.harness.becomes(job_id, "completed", 20)).attempted_by[1] == str(producer.uuid)


async def test_nodes_that_met_an_unknown_worker_are_not_counted(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    async with crowd.working(registry=Registry()):
        await crowd.told(monkeypatch, 0, *(Job("strange") for _ in range(NODES)))
        await eventually(lambda: all(each._queues.all[0]._election.rank is None for each in crowd.runners))
