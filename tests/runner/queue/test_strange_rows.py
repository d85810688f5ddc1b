"""Rows of strangers, one kind at a time: what becomes of them, and of those beside them."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest

from oban_sa import Job, Oban, worker
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.retention import Prune
from oban_sa.workers import Registry
from tests import strangers
from tests.runner.conftest import Harness
from tests.support import eventually

COLUMNS = ("inserted_at", "scheduled_at", "attempted_at", "completed_at", "cancelled_at", "discarded_at")


@pytest.fixture
def known(registry: Registry) -> dict[int, Job]:
    """The jobs that the worker "known" was given."""
    given: dict[int, Job] = {}

    @worker(registry=registry, name="known")
    class Known:
        async def process(self, job: Job) -> None:
            given[job.id] = job

    return given


async def test_jobs_of_any_date_are_run_and_hold_up_no_other(harness: Harness, known: dict[int, Job]) -> None:
    for column in COLUMNS:
        for moment in strangers.MOMENTS:
            await harness.sql(f"INSERT INTO oban_jobs (worker, {column}) VALUES ('known', '{moment}')")
    ids = await harness.enqueue(Job("known"), Job("known", priority=9))
    # Two at a time, so that a fetch begins where the last one ended.
    await harness.drain(queues={"default": 2})
    assert await harness.states() == {"completed": len(COLUMNS) * len(strangers.MOMENTS) + 2}
    assert known.keys() >= set(ids)
    moments = [getattr(job, column) for job in known.values() for column in COLUMNS]
    assert {moment.tzinfo for moment in moments if moment is not None} == {UTC}


async def test_jobs_of_one_strange_moment_are_all_found_by_a_burst(harness: Harness, known: dict[int, Job]) -> None:
    for moment in ("infinity", "10000-01-01", "-infinity", "0044-03-15 BC", "9999-12-31 23:59:59.999999"):
        await harness.sql(
            f"INSERT INTO oban_jobs (worker, scheduled_at) SELECT 'known', '{moment}' FROM generate_series(1, 20)"
        )
    await harness.drain(queues={"default": 3})
    assert len(known) == 100
    assert await harness.states() == {"completed": 100}


async def test_jobs_are_staged_beside_some_that_are_never_due(harness: Harness, known: dict[int, Job]) -> None:
    await harness.sql("INSERT INTO oban_jobs (worker, state, scheduled_at) VALUES ('known', 'scheduled', 'infinity')")
    (soon,) = await harness.enqueue(Job("known", schedule_in=0.3))
    async with harness.runner():
        await harness.becomes(soon, "completed")
    assert await harness.states() == {"completed": 1, "scheduled": 1}


@pytest.mark.parametrize("beat", ["-infinity", "infinity", "0044-03-15 BC"])
async def test_the_dead_are_rescued_whatever_moment_they_beat_at(
    harness: Harness, known: dict[int, Job], beat: str
) -> None:
    for uuid, at in (("a" * 32, f"timestamp '{beat}'"), ("b" * 32, "now() - interval '1 hour'")):
        await harness.sql(
            "INSERT INTO oban_producers (uuid, node, queue, meta, started_at, updated_at) "
            f"VALUES ('{uuid}', 'gone', 'default', '{{\"dead_after\"\\: 2}}', {at}, {at})"
        )
        await harness.sql(
            "INSERT INTO oban_jobs (worker, state, attempt, attempted_at, attempted_by) "
            f"SELECT 'known', 'executing', 1, now(), ARRAY['gone', CAST(CAST('{uuid}' AS uuid) AS text)]"
        )
    async with harness.runner():

        async def rescued() -> None:
            assert await harness.states() == {"completed": 2}
            assert await harness.sql("SELECT 1 FROM oban_producers WHERE node = 'gone'") == []

        await eventually(rescued, 15)
    errors = [job.errors[0]["error"] for job in known.values()]
    assert all(error.startswith("AttemptOrphaned: node gone stopped beating") for error in errors), errors
    assert not any("inf" in error for error in errors)


async def test_integers_of_any_size_and_any_depth_reach_the_worker(harness: Harness, known: dict[int, Job]) -> None:
    huge = 12345678901234567890123
    for document in (f'{{"n": {huge}}}', '{"a": [' * 1500 + str(huge) + "]}" * 1500):
        await harness.sql(
            "INSERT INTO oban_jobs (worker, args, meta, errors) VALUES "
            "('known', CAST(CAST(:j AS text) AS jsonb), CAST(CAST(:j AS text) AS jsonb), "
            "ARRAY[CAST(CAST(:j AS text) AS jsonb)])",
            j=document,
        )
    await harness.drain()
    assert await harness.states() == {"completed": 2}
    flat, deep = (known[job_id] for job_id in sorted(known))
    assert flat.args == flat.meta == flat.errors[0] == {"n": huge}
    inner: Any = deep.args
    while isinstance(inner, (dict, list)):
        inner = inner["a"] if isinstance(inner, dict) else inner[0]
    assert inner == huge


async def test_a_lease_for_ever_is_taken_and_a_tick_moved_on_from_any_moment(
    harness: Harness, known: dict[int, Job]
) -> None:
    await harness.sql("INSERT INTO oban_leaders VALUES ('oban_sa.Oban', 'stranger', '-infinity', 'infinity')")
    names = {f"tick {number}": moment for number, moment in enumerate(("infinity", "-infinity", "0044-03-15 BC"))}
    for name, moment in names.items():
        await harness.sql(
            "INSERT INTO oban_sa_crons (name, expression, worker, opts, last_at, updated_at) VALUES "
            f"('{name}', '* * * * * *', 'known', '{{\"last_job_id\"\\: \"x\"}}', '{moment}', '{moment}')"
        )
    entries = [CronEntry("* * * * * *", "known", name=name, overlap=False) for name in names]
    async with harness.runner(crontab=entries):

        async def ticked() -> None:
            found = await harness.sql("SELECT DISTINCT meta->>'cron_name' FROM oban_jobs WHERE state = 'completed'")
            assert {row[0] for row in found} == set(names)

        await eventually(ticked, 20)
        ((leader,),) = await harness.sql("SELECT node FROM oban_leaders WHERE name = 'oban_sa.Oban'")
        assert leader != "stranger"
    ticks = await harness.sql("SELECT meta->>'cron_name', meta->>'cron_at' FROM oban_jobs")
    assert len(ticks) == len(set(map(tuple, ticks)))


async def test_decisions_are_carried_out_beside_some_that_nobody_can_read(harness: Harness) -> None:
    for number, meta in enumerate(strangers.JSON):
        await harness.sql(
            "INSERT INTO oban_sa_queues (name, meta) VALUES (:name, CAST(CAST(:meta AS text) AS jsonb))",
            name=f"other {number}",
            meta=str(meta),
        )
    async with harness.runner():
        # Without a word to the runner, which has to read it.
        await harness.sql(
            "INSERT INTO oban_sa_queues (name, meta) VALUES "
            """('default', '{"Oban"\\: {"limit"\\: 3, "limit_at"\\: "2026"}}')"""
        )

        async def scaled() -> None:
            (check,) = await Oban(harness.engine).check_queues()
            assert check.limit == 3

        await eventually(scaled, 15)


async def test_jobs_that_ended_before_all_time_are_pruned_and_no_other(harness: Harness) -> None:
    for moment in ("-infinity", "0044-03-15 BC", "2020-01-01", "infinity", "10000-01-01"):
        await harness.sql(f"INSERT INTO oban_jobs (worker, state, completed_at) VALUES ('w', 'completed', '{moment}')")
    async with harness.runner(prune=Prune(every=0.2)):

        async def pruned() -> None:
            assert len(await harness.sql("SELECT 1 FROM oban_jobs")) == 2

        await eventually(pruned)
    assert await harness.sql("SELECT 1 FROM oban_jobs WHERE completed_at < now()") == []
