"""Jobs of a sequence run one at a time and in order, in a queue that knows nothing of sequences."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Oban, Queue, Rate, Snooze, job
from oban_sa.runner.execution.attempt import SEQUENCE_NAMED
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.turns import Turns
from oban_sa.testing import drain
from tests.runner.conftest import Harness
from tests.support import eventually

KEYS = "abcdef"


class Ledger:
    """What ran of each key, in order; fails where two run at once."""

    def __init__(self) -> None:
        self.begun: dict[str, list[int]] = defaultdict(list)
        self.now: set[str] = set()

    async def book(self, key: str, n: int, seconds: float = 0.001) -> None:
        assert key not in self.now, f"two of {key} at once"
        self.now.add(key)
        self.begun[key].append(n)
        await asyncio.sleep(seconds)
        self.now.discard(key)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


async def test_each_key_runs_in_order_and_one_at_a_time_on_several_nodes(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n)

    @job(registry=harness.registry, sequence="args.key")
    async def book_in_session(session: AsyncSession, key: str, n: int) -> None:
        await session.execute(text("SELECT 1"))
        await ledger.book(key, n)

    jobs = []
    for n in range(20):
        for key in KEYS:
            chosen = book if n % 3 else book_in_session
            # Priorities and moments would have it otherwise.
            jobs.append(chosen.options(priority=9 - n % 10).new(key, n))
    ids = await harness.enqueue(*jobs)
    assert ids == sorted(ids)
    async with AsyncExitStack() as stack:
        for name in ("one", "two", "three"):
            await stack.enter_async_context(harness.runner(node=name))

        async def done() -> None:
            assert await harness.states() == {"completed": len(ids)}

        await eventually(done, 30)
    assert ledger.begun == {key: list(range(20)) for key in KEYS}
    assert await harness.sql("SELECT max(attempt), min(attempt) FROM oban_jobs") == [(1, 1)]
    assert await harness.sql("SELECT count(*) FROM oban_jobs WHERE meta ? 'parked'") == [(0,)]


async def test_a_failed_job_is_retried_before_the_next(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key", backoff=lambda _: 1)
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n)
        if n == 1 and ledger.begun[key].count(1) < 2:
            raise ValueError("again")

    await harness.enqueue(*(book.options(priority=9 - n).new("a", n) for n in range(4)))
    await harness.enqueue(book.new("b", 7))
    async with harness.runner():

        async def done() -> None:
            assert await harness.states() == {"completed": 5}

        await eventually(done, 20)
    assert ledger.begun == {"a": [0, 1, 1, 2, 3], "b": [7]}


async def test_a_job_that_is_scheduled_or_snoozes_holds_its_place(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> Snooze | None:
        await ledger.book(key, n)
        return Snooze(0.3) if n == 1 and ledger.begun[key].count(1) < 2 else None

    ids = await harness.enqueue(book.options(schedule_in=1).new("a", 0), book.new("a", 1), book.new("a", 2))
    async with harness.runner():
        await harness.becomes(ids[1], "suspended")
        assert ledger.begun == {}

        async def done() -> None:
            assert await harness.states() == {"completed": 3}

        await eventually(done, 20)
    assert ledger.begun == {"a": [0, 1, 1, 2]}


async def test_a_discarded_job_halts_its_sequence_until_it_is_resumed(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key", max_attempts=1, on_failure="halt")
    async def halts(key: str, n: int) -> None:
        await ledger.book(key, n)
        if n == 1:
            raise ValueError("no")

    @job(registry=harness.registry, sequence="args.key", max_attempts=1)
    async def skips(key: str, n: int) -> None:
        await ledger.book(key, n)
        if n == 1:
            raise ValueError("no")

    ids = await harness.enqueue(*(halts.options(priority=5 - n).new("a", n) for n in range(4)))
    await harness.enqueue(*(skips.options(priority=5 - n).new("b", n) for n in range(4)))
    async with harness.runner():
        await harness.becomes(ids[1], "discarded")

        async def skipped() -> None:
            assert ledger.begun["b"] == [0, 1, 2, 3]

        await eventually(skipped)
        await harness.becomes(ids[2], "suspended")
        assert ledger.begun["a"] == [0, 1]
        assert await Oban(harness.engine).resume_sequence("default", "a") == [ids[1]]
        await harness.becomes(ids[3], "completed")
    assert ledger.begun["a"] == [0, 1, 2, 3]


async def test_what_no_node_of_ours_ended_lets_the_next_go_on(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n)

    later = book.options(schedule_in=3600)
    ids = await harness.enqueue(
        later.new("a", 0), book.new("a", 1), later.new("b", 0), book.options(priority=3).new("b", 1)
    )
    async with harness.runner():
        await harness.becomes(ids[1], "suspended")
        await harness.becomes(ids[3], "suspended")
        await harness.sql("UPDATE oban_jobs SET state = 'cancelled' WHERE id = :id", id=ids[0])
        await harness.sql("DELETE FROM oban_jobs WHERE id = :id", id=ids[2])
        await harness.becomes(ids[1], "completed")
        await harness.becomes(ids[3], "completed")


async def test_a_job_that_is_committed_late_waits_for_the_one_that_runs(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n, 0.5)

    async with harness.runner():
        async with harness.sessions.begin() as session:
            late = book.enqueue(session, "a", 0)
            await session.flush()
            await harness.enqueue(book.new("a", 1), book.options(priority=2).new("a", 2))

            async def runs() -> None:
                assert ledger.begun["a"] == [1]

            await eventually(runs)
        await harness.becomes(late.id, "suspended")

        async def done() -> None:
            assert await harness.states() == {"completed": 3}

        await eventually(done)
    assert ledger.begun["a"] == [1, 0, 2]


async def test_what_is_suspended_for_another_reason_is_not_released(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n)

    ids = await harness.enqueue(book.new("a", 0), book.new("a", 1), book.new("b", 0))
    await harness.sql(
        "UPDATE oban_jobs SET state = 'suspended', meta = meta || '{\"parked\": \"2026-01-01T00:00:00\"}' "
        "WHERE id = :id",
        id=ids[0],
    )
    async with harness.runner():
        await harness.becomes(ids[1], "suspended")
        await harness.becomes(ids[2], "completed")
        await asyncio.sleep(1.5)
    assert ledger.begun == {"b": [0]}


async def test_a_retried_job_does_not_run_beside_a_later_one(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key", max_attempts=1)
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n, 0.4 if n else 0)
        if not n and ledger.begun[key].count(0) < 2:
            raise ValueError("no")

    ids = await harness.enqueue(book.new("a", 0), book.new("a", 1), book.new("a", 2))
    async with harness.runner():

        async def runs() -> None:
            # As the code sees it: a job that was fetched before its turn is executing for a moment too.
            assert ledger.begun["a"] == [0, 1]

        await eventually(runs)
        await harness.becomes(ids[0], "discarded")
        await Oban(harness.engine).retry_job(ids[0])

        async def done() -> None:
            assert await harness.states() == {"completed": 3}

        await eventually(done)
    assert ledger.begun["a"] == [0, 1, 0, 2]


async def test_a_drain_keeps_the_order(harness: Harness, ledger: Ledger) -> None:
    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n, 0)

    await harness.enqueue(*(book.options(priority=9 - n).new(key, n) for n in range(5) for key in "ab"))
    assert await drain(harness.engine, registry=harness.registry) == {"completed": 10}
    assert ledger.begun == {"a": list(range(5)), "b": list(range(5))}


async def test_code_does_not_begin_before_the_tables_have_answered(
    harness: Harness, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Tables.turn, 0

    async def away(self: Tables, *args: object, **given: object) -> object:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise OSError("away")
        return await real(self, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(Tables, "turn", away)

    @job(registry=harness.registry, sequence="args.key")
    async def book(key: str, n: int) -> None:
        assert asked >= 4
        await ledger.book(key, n)

    await harness.enqueue(*(book.new("a", n) for n in range(3)))
    async with harness.runner():

        async def done() -> None:
            assert await harness.states() == {"completed": 3}

        await eventually(done)
    assert ledger.begun == {"a": [0, 1, 2]}


async def test_other_jobs_are_not_asked_about(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(Turns, "come", never)

    @job(registry=harness.registry, partition="args.n")
    async def plain(n: int) -> None: ...

    await harness.enqueue(*(plain.new(n) for n in range(5)))
    await harness.drain()
    assert await harness.states() == {"completed": 5}
    assert SEQUENCE_NAMED == '"sequence"'


@pytest.mark.parametrize("by", [None, "partition"])
@pytest.mark.parametrize("weight", [None, "args.n"])
async def test_a_job_that_is_parked_spends_nothing_of_a_rate(
    harness: Harness, ledger: Ledger, by: Any, weight: str | None
) -> None:
    @job(registry=harness.registry, sequence="args.key", partition="args.key")
    async def book(key: str, n: int) -> None:
        await ledger.book(key, n)

    count = 8
    await harness.enqueue(*(book.new("a", n) for n in range(count)))
    # Enough for each to start once: any that is parked would need more.
    n = count if weight is None else sum(max(each, 1) for each in range(count))
    async with harness.runner(queues={"default": Queue(count, by=by, rate=Rate(n, per=3600, weight=weight))}):

        async def done() -> None:
            assert await harness.states() == {"completed": count}

        await eventually(done, 30)
    assert ledger.begun == {"a": list(range(count))}
    key = "a" if by else ""
    [(counts,)] = await harness.sql("SELECT counts FROM oban_sa_rates WHERE key = :key", key=key)
    assert sum(counts) == n
