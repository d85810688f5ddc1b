"""Jobs without a key, in queues that have partitions, get one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from oban_sa import Job
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import lacking_keys
from oban_sa.runner.maintenance.lacking_keys import LackingKeys
from oban_sa.workers import job
from tests.runner.conftest import Harness


@dataclass
class Served:
    queue: str
    partitioned: bool


@pytest.fixture
def told() -> list[str]:
    """The queues in which jobs were given a key."""
    return []


@pytest.fixture
async def part(harness: Harness, told: list[str]) -> AsyncIterator[LackingKeys]:
    served = [Served("calls", True), Served("plain", False)]
    made = LackingKeys(
        Database(harness.engine),
        registry=harness.registry,
        allow=(),
        every=1.0,
        queues=lambda: served,
        given=told.append,
    )

    @job(registry=harness.registry, name="call", partition="args.tenant_id", sequence="args.url", on_failure="halt")
    def call(tenant_id: int, url: str = "/") -> None: ...

    @job(registry=harness.registry, name="none")
    def none() -> None: ...

    @job(registry=harness.registry, name="asked", partition=lambda job: f"{job.queue}/{job.args['size'] // 10}")
    def asked(size: int) -> None: ...

    yield made
    await made.close()


async def metas(harness: Harness) -> list[dict[str, Any]]:
    return [row[0] for row in await harness.sql("SELECT meta FROM oban_jobs ORDER BY id")]


async def test_jobs_of_others_get_the_keys_that_their_worker_says(
    harness: Harness, part: LackingKeys, told: list[str]
) -> None:
    await harness.sql(
        """INSERT INTO oban_jobs (queue, worker, args, meta, state) VALUES
           ('calls', 'call', '{"tenant_id": 7, "url": "x"}', '{"a": 1}', 'available'),
           ('calls', 'call', '{"tenant_id": 7, "url": "x"}', '{"sequence": "own"}', 'scheduled'),
           ('calls', 'asked', '{"size": 25}', '{}', 'retryable'),
           ('calls', 'none', '{}', '{}', 'available'),
           ('calls', 'call', '{"tenant_id": 7}', '{"partition": "own"}', 'available'),
           ('calls', 'call', '{"tenant_id": 7}', '{}', 'completed'),
           ('plain', 'call', '{"tenant_id": 7}', '{}', 'available')"""
    )
    assert await part.tick() == 1.0
    assert await metas(harness) == [
        {"a": 1, "partition": "7", "sequence": "x", "halts": True},
        {"partition": "7", "sequence": "own", "halts": True},
        {"partition": "calls/2"},
        {"partition": ""},
        {"partition": "own"},
        {},
        {},
    ]
    assert told == ["calls"]
    await part.tick()
    assert told == ["calls"]


async def test_a_job_whose_key_can_not_be_made_is_in_the_partition_without_a_name(
    harness: Harness, part: LackingKeys, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.enqueue(Job("call", queue="calls"), Job("call", queue="calls"), Job("asked", queue="calls"))
    with caplog.at_level(logging.WARNING):
        await part.tick()
    assert await metas(harness) == [{"partition": ""}] * 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert any("of call has no partition" in each and "no 'tenant_id'" in each for each in said)


async def test_a_job_of_an_unknown_worker_waits_a_while_for_a_program_that_knows_it(
    harness: Harness, part: LackingKeys
) -> None:
    [job_id] = await harness.enqueue(Job("elsewhere", queue="calls"))
    await part.tick()
    assert await metas(harness) == [{}]
    await harness.sql("UPDATE oban_jobs SET inserted_at = inserted_at - interval '2 minutes' WHERE id = :id", id=job_id)
    await part.tick()
    assert await metas(harness) == [{"partition": ""}]


async def test_all_that_was_written_at_once_is_found_page_by_page(
    harness: Harness, part: LackingKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lacking_keys, "NEWEST", 10)
    await harness.enqueue(*(Job("none", queue="calls") for _ in range(45)))
    await part.tick()
    assert await metas(harness) == [{"partition": ""}] * 45


async def test_what_was_missed_is_found_along_the_index(
    harness: Harness, part: LackingKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As jobs below a page of newer ones are, whose transaction committed late."""
    monkeypatch.setattr(lacking_keys, "NEWEST", 5)
    monkeypatch.setattr(lacking_keys, "ALONG", 10)
    monkeypatch.setattr(lacking_keys, "ALONG_EVERY", 0.0)
    has = {"partition": "x"}
    await harness.enqueue(
        *(Job("none", queue="calls", meta=has, priority=n % 3) for n in range(20)),
        *(Job("none", queue="calls", priority=n) for n in range(3)),
        *(Job("none", queue="calls", meta=has, priority=n % 3) for n in range(20)),
    )
    for _ in range(4):
        await part.tick()
    assert [meta["partition"] for meta in await metas(harness)] == ["x"] * 20 + [""] * 3 + ["x"] * 20
    # And again from the beginning: one that came to stand before all that was passed.
    [job_id] = await harness.enqueue(Job("none", queue="calls", meta=has))
    await harness.enqueue(*(Job("none", queue="calls", meta=has) for _ in range(6)))
    await harness.sql("UPDATE oban_jobs SET meta = '{}', scheduled_at = '2020-01-01' WHERE id = :id", id=job_id)
    for _ in range(6):
        await part.tick()
    assert all("partition" in meta for meta in await metas(harness))


async def test_rows_that_are_locked_are_left_for_the_next_time(harness: Harness, part: LackingKeys) -> None:
    one, two = await harness.enqueue(Job("none", queue="calls"), Job("none", queue="calls"))
    async with harness.sessions() as session:
        await session.get(Job, one, with_for_update=True)
        await part.tick()
        assert await metas(harness) == [{}, {"partition": ""}]
    await part.tick()
    assert await metas(harness) == [{"partition": ""}] * 2
    assert two


async def test_a_queue_without_partitions_is_never_looked_at(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Callable[..., object]] = []
    part = LackingKeys(
        Database(harness.engine),
        registry=harness.registry,
        allow=(),
        every=1.0,
        queues=lambda: [Served("plain", False)],
        given=lambda _: None,
    )
    monkeypatch.setattr(part, "_line", type("Line", (), {"fetch": lambda *_, **__: fetched.append(print)})())
    assert await part.tick() == 1.0
    assert fetched == []
