"""What a node did is written by minute, hour and day, once, and what waits by the node that leads."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, Snooze, telemetry
from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.cluster.tally import Tally
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import metrics as part
from oban_sa.runner.maintenance.metrics import Metrics
from oban_sa.schedule import clock
from oban_sa.workers.function import job
from tests.runner.cluster.test_tally import columns
from tests.runner.conftest import Harness
from tests.support import eventually

STEPS = (60, 3_600, 86_400)


@asynccontextmanager
async def writing(
    harness: Harness, node: str = "web.1", *, leads: bool = False
) -> AsyncIterator[tuple[Metrics, Tally]]:
    database = Database(harness.engine)
    leader = Leader(database, source=telemetry.Source(node=node), lasts=20)
    if leads:
        await leader.tick()
    tally = Tally()
    made = Metrics(database, leader, tally, source=telemetry.Source(node=node), every=10, served=lambda: ["served"])
    try:
        yield made, tally
    finally:
        await made.close()
        await leader.close()
        await database.shared.close()


def ended(tally: Tally, times: int = 1, **more: Any) -> None:
    for _ in range(times):
        tally.ended(columns(**more), JobState.COMPLETED, None, clock.monotonic())


async def counts(harness: Harness) -> dict[tuple[int, str], int]:
    """How many were completed, by step and worker, on all nodes."""
    rows = await harness.sql(
        "SELECT step, worker, sum(CAST(outcomes ->> 'completed' AS integer)) FROM oban_sa_metrics GROUP BY 1, 2"
    )
    return {(step, worker): int(count) for step, worker, count in rows if count is not None}


async def test_a_runner_writes_what_it_did_when_it_stops_at_the_latest(harness: Harness) -> None:
    @job(registry=harness.registry, name="fine")
    async def fine() -> None: ...

    @job(registry=harness.registry, name="bad", max_attempts=1)
    async def bad() -> None:
        raise ValueError("x")

    @job(registry=harness.registry, name="later")
    async def later() -> Snooze:
        return Snooze(3600)

    await harness.enqueue(*(Job("fine") for _ in range(20)), Job("bad", max_attempts=1), Job("later"))
    await harness.drain()
    rows = await harness.sql(
        "SELECT step, worker, sum(CAST(e.value AS integer)) FROM oban_sa_metrics, jsonb_each_text(outcomes) e "
        "WHERE node IS NOT NULL GROUP BY 1, 2"
    )
    found = {(step, worker): int(count) for step, worker, count in rows}
    assert found == {
        (step, each): count for step in STEPS for each, count in {"fine": 20, "bad": 1, "later": 1, "*": 22}.items()
    }
    assert await harness.sql("SELECT DISTINCT failures FROM oban_sa_metrics WHERE worker = 'bad'") == [
        ({"ValueError": 1},)
    ]
    [(runs, waits)] = await harness.sql(
        "SELECT (SELECT sum(value::int) FROM oban_sa_metrics, jsonb_each_text(run) WHERE worker = '*' AND step = 60), "
        "(SELECT sum(value::int) FROM oban_sa_metrics, jsonb_each_text(wait) WHERE worker = '*' AND step = 60)"
    )
    assert (runs, waits) == (22, 22)


async def test_with_none_nothing_is_counted_or_written(harness: Harness) -> None:
    @job(registry=harness.registry, name="fine")
    async def fine() -> None: ...

    await harness.enqueue(Job("fine"))
    await harness.drain(metrics_every=None)
    assert await harness.sql("SELECT * FROM oban_sa_metrics") == []


async def test_all_that_was_counted_goes_in_one_statement_and_none_where_there_is_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    fetch = Line.fetch

    async def noted(self: Line, prepared: Any, **given: Any) -> Any:
        sent.append(prepared.text.sql)
        return await fetch(self, prepared, **given)

    async with writing(harness) as (made, tally):
        await made.tick()
        monkeypatch.setattr(Line, "fetch", noted)
        await made.tick()
        assert sent == []
        for number in range(50):
            ended(tally, worker=f"w{number}")
        await made.tick()
        assert len(sent) == 1


async def test_nodes_add_to_rows_of_their_own_and_a_name_that_comes_again_adds_to_its_former_ones(
    harness: Harness,
) -> None:
    for node in ("web.1", "web.2", "web.1"):
        async with writing(harness, node) as (made, tally):
            ended(tally, 3)
            await made.tick()
            ended(tally, 2)
            await made.tick()
    assert await counts(harness) == {(step, worker): 15 for step in STEPS for worker in ("w", "*")}
    nodes = await harness.sql("SELECT DISTINCT node FROM oban_sa_metrics ORDER BY 1")
    assert [node for (node,) in nodes] == ["web.1", "web.2"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("arrives", [True, False])
async def test_a_batch_without_an_answer_is_sent_again_and_counts_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, arrives: bool, there: bool
) -> None:
    fetch = Line.fetch
    lost = [True]

    async def losing(self: Line, prepared: Any, **given: Any) -> Any:
        if "flush" not in given or not lost:
            return await fetch(self, prepared, **given)
        lost.clear()
        if arrives:
            await fetch(self, prepared, **given)
        raise ConnectionResetError("the answer is lost")

    monkeypatch.setattr(part, "EVERY", 0.0)  # so that all steps are in each batch
    async with writing(harness) as (made, tally):
        if there:  # rows that the batch is added to
            ended(tally, 5)
            await made.tick()
        ended(tally, 3)
        monkeypatch.setattr(Line, "fetch", losing)
        with pytest.raises(ConnectionResetError):
            await made.tick()
        ended(tally, 4)
        await made.tick()
    total = 7 + 5 * there
    assert await counts(harness) == {(step, worker): total for step in STEPS for worker in ("w", "*")}


async def test_a_role_that_may_not_write_is_told_so_once_and_goes_on(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch = Line.fetch

    async def refused(self: Line, prepared: Any, **given: Any) -> Any:
        if "flush" in given:
            raise asyncpg.InsufficientPrivilegeError("permission denied for table oban_sa_metrics")
        return await fetch(self, prepared, **given)

    monkeypatch.setattr(Line, "fetch", refused)
    with caplog.at_level(logging.WARNING, "oban_sa.runner"):
        async with writing(harness) as (made, tally):
            for _ in range(3):
                ended(tally)
                assert await made.tick() == part.REFUSED_FOR
    said = [record.getMessage() for record in caplog.records if "dashboard's metrics" in record.getMessage()]
    assert len(said) == 1
    assert "grants --role runner" in said[0]


async def test_the_node_that_leads_writes_what_waits_and_that_it_has_come_down(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.sql(
        "INSERT INTO oban_jobs (worker, queue, scheduled_at) "
        "SELECT 'w', 'mailers', timezone('UTC', now()) - interval '90 seconds' FROM generate_series(1, 7)"
    )
    async with writing(harness, "web.2") as (made, _):
        await made.tick()
    assert await harness.sql("SELECT * FROM oban_sa_metrics") == []
    monkeypatch.setattr(part, "MOST", 5)
    monkeypatch.setattr(part, "EVERY", 0.0)
    async with writing(harness, leads=True) as (made, _):
        await made.tick()
        rows = await harness.sql("SELECT step, queue, worker, backlog, oldest >= 90 FROM oban_sa_metrics ORDER BY 1, 2")
        assert [tuple(row) for row in rows] == [
            (step, *line) for step in STEPS for line in (("mailers", "*", 5, True), ("served", "*", 0, False))
        ]
        await harness.sql("DELETE FROM oban_jobs")
        await harness.sql("UPDATE oban_sa_metrics SET at = at - interval '1 day'")
        await made.tick()
        [row] = await harness.sql(
            "SELECT backlog, oldest FROM oban_sa_metrics WHERE step = 60 AND queue = 'mailers' ORDER BY at DESC LIMIT 1"
        )
        assert tuple(row) == (0, 0.0)


async def test_the_node_that_leads_forgets_what_is_old_of_each_step(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part, "BATCH", 10)
    monkeypatch.setattr(part, "EVERY", 0.0)
    await harness.sql(
        "INSERT INTO oban_sa_metrics (step, queue, worker, at, node) "
        "SELECT step, 'q', 'w', timezone('UTC', now()) - number * interval '1 hour', 'n' "
        "FROM unnest(ARRAY[60, 3600, 86400, 7]) step, generate_series(0, 3000, 1) number"
    )
    async with writing(harness) as (made, _):
        await made.tick()
    assert await harness.sql("SELECT count(*) FROM oban_sa_metrics") == [(4 * 3001,)]
    async with writing(harness, leads=True) as (made, _):
        await made.tick()
    rows = await harness.sql("SELECT step, count(*) FROM oban_sa_metrics GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in rows] == [(7, 3001), (60, 6 + 1), (3600, 15 * 24 + 1), (86400, 100 * 24 + 1)]


async def test_rows_that_another_program_wrote_are_added_to_all_the_same(harness: Harness) -> None:
    async with writing(harness) as (made, tally):
        ended(tally, 2)
        await made.tick()
        await harness.sql(
            """UPDATE oban_sa_metrics SET outcomes = '{"completed": "x", "odd": -1}', run = '[1]', wait = 'null', """
            "oldest = 'NaN', backlog = -1"
        )
        ended(tally, 3)
        await made.tick()
    assert await counts(harness) == {(step, worker): 3 for step in STEPS for worker in ("w", "*")}


async def test_it_is_written_while_the_runner_works(harness: Harness) -> None:
    @job(registry=harness.registry, name="fine")
    async def fine() -> None: ...

    async with harness.runner(metrics_every=0.1):
        await harness.enqueue(Job("fine"))

        async def written() -> None:
            assert (await counts(harness)).get((60, "fine")) == 1

        await eventually(written)
