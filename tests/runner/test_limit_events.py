"""Rates and sequences are told of where something changes, and not at each fetch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from oban_sa import Job, Oban, Queue, Rate, job, telemetry
from oban_sa.runner.maintenance import sequences
from tests.runner.conftest import Harness
from tests.runner.queue.test_limits import nodes
from tests.support import eventually

Of = Callable[[type[telemetry.Event]], list[Any]]


async def test_a_spent_rate_is_told_of_once_until_some_is_left(harness: Harness, of: Of) -> None:
    await harness.enqueue(*(Job("worker") for _ in range(20)))
    async with nodes(harness, 1, rate=Rate(4, per=3600)) as [node]:
        assert len(await node.fetch(3)) == 3
        assert of(telemetry.RateSpent) == []
        assert len(await node.fetch(3)) == 1
        [spent] = of(telemetry.RateSpent)
        assert (spent.queue, spent.runner.node) == ("default", "n")
        assert 0 < spent.available_in <= 3661
        await node.fetch(3)
        # All that has become available is taken at once.
        await harness.sql("UPDATE oban_sa_rates SET counts[61] = 1")
        assert len(await node.fetch(3)) == 3
        assert len(of(telemetry.RateSpent)) == 1
        assert of(telemetry.RateAvailable) == []
        await harness.sql("UPDATE oban_sa_rates SET counts[61] = 1")
        assert len(await node.fetch(1)) == 1
        assert [each.queue for each in of(telemetry.RateAvailable)] == ["default"]
        await node.fetch(3)
        assert len(of(telemetry.RateSpent)) == 2


async def test_a_rate_that_is_taken_away_is_spent_no_longer(harness: Harness, of: Of) -> None:
    @job(registry=harness.registry)
    async def work() -> None: ...

    ids = await harness.enqueue(work.new(), work.new())
    async with harness.runner(queues={"default": Queue(5, rate=Rate(1, per=3600))}):
        await harness.becomes(ids[0], "completed")
        await eventually(lambda: of(telemetry.RateSpent))
        await Oban(harness.engine).limit_queue("default", rate=None)
        await harness.becomes(ids[1], "completed")
    assert len(of(telemetry.RateAvailable)) == 1


async def test_a_plain_queue_and_a_queue_with_other_limits_tell_nothing(harness: Harness, of: Of) -> None:
    @job(registry=harness.registry)
    async def work() -> None: ...

    await harness.enqueue(work.new(), work.options(queue="other").new())
    await harness.drain(queues={"default": 2, "other": Queue(5, global_limit=1)})
    assert await harness.states() == {"completed": 2}
    assert of(telemetry.RateSpent) == of(telemetry.RateAvailable) == []


async def test_a_sequence_is_told_of_when_it_halts_and_when_it_goes_on(
    harness: Harness, of: Of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "EVERY", 0.1)
    monkeypatch.setattr(sequences, "NONE_EVERY", 0.1)
    fails = True

    @job(registry=harness.registry, sequence="args.key", max_attempts=1, on_failure="halt")
    async def book(key: str) -> None:
        if fails:
            raise ValueError

    name = book.new("a").worker
    ids = await harness.enqueue(book.new("a"), book.new("a"), book.new("b"))
    async with harness.runner():
        await eventually(lambda: len(of(telemetry.SequenceHalted)) == 2)
        halted = {each.key: (each.queue, each.job_id, each.worker) for each in of(telemetry.SequenceHalted)}
        assert halted == {"a": ("default", ids[0], name), "b": ("default", ids[2], name)}
        fails = False
        await Oban(harness.engine).resume_sequence("default", "a")
        await eventually(lambda: [each.key for each in of(telemetry.SequenceResumed)] == ["a"])
        await Oban(harness.engine).retry_job(ids[2])
        await eventually(lambda: [each.key for each in of(telemetry.SequenceResumed)] == ["a", "b"])
        await harness.becomes(ids[1], "completed")
    assert len(of(telemetry.SequenceHalted)) == 2


async def test_where_there_are_many_sequences_none_is_told_of_twice(
    harness: Harness, of: Of, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequences, "EVERY", 0.02)
    monkeypatch.setattr(sequences, "SWEPT", 2)  # so that one look sees a part of them
    await harness.sql(
        "INSERT INTO oban_jobs (state, worker, discarded_at, meta) SELECT 'discarded', 'w', now(), "
        "jsonb_build_object('sequence', n::text, 'halts', true) FROM generate_series(1, 7) AS n"
    )
    async with harness.runner():
        await eventually(lambda: len(of(telemetry.SequenceHalted)) == 7)
        await harness.sql("DELETE FROM oban_jobs WHERE meta ->> 'sequence' = '4'")
        await eventually(lambda: [each.key for each in of(telemetry.SequenceResumed)] == ["4"])
        await harness.sql("DELETE FROM oban_jobs WHERE meta ->> 'sequence' = '7'")
        await eventually(lambda: [each.key for each in of(telemetry.SequenceResumed)] == ["4", "7"])
    assert len(of(telemetry.SequenceHalted)) == 7
