"""Several at once: schemas in one process, instances in one schema, versions of one application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Oban, job, schema_map, telemetry, worker
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.migrations import migrate
from oban_sa.workers import Registry
from tests.factories import executing, producer
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
def ran() -> list[str]:
    return []


def known(ran: list[str], node: str) -> Registry:
    """Workers that note on whose behalf they ran."""
    registry = Registry()

    @job(registry=registry, name="note")
    async def note(what: str = "-") -> None:
        ran.append(f"{node}: {what}")

    return registry


async def paused_queues(harness: Harness) -> dict[tuple[str, str], bool]:
    rows = await harness.sql("SELECT name, queue, (meta->>'paused')::bool FROM oban_producers")
    return {(name, queue): paused for name, queue, paused in rows}


async def test_runners_of_several_schemas_in_one_process_keep_to_their_own(
    harness: Harness, ran: list[str], events: list[telemetry.Event]
) -> None:
    for schema in ("one", "two"):
        async with harness.engine.begin() as connection:
            await connection.run_sync(migrate, schema)
    ids: dict[str, int] = {}

    async def enqueue(schema: str, what: str) -> None:
        mapped = harness.engine.execution_options(schema_translate_map=schema_map(schema))
        async with AsyncSession(mapped, expire_on_commit=False) as session, session.begin():
            made = Job("note", args={"what": what}, id=7)
            session.add(made)
        ids[schema] = made.id

    # So rarely that only being told explains a start.
    rarely = {"poll_every": 3600, "stage_every": 3600}
    async with (
        harness.runner(schema="one", registry=known(ran, "one"), **rarely),
        harness.runner(schema="two", registry=known(ran, "two"), **rarely),
        harness.runner(registry=known(ran, "public"), **rarely),
    ):
        await eventually(lambda: sum(isinstance(event, telemetry.NotifierConnected) for event in events) == 3)
        await enqueue("two", "a")
        await eventually(lambda: ran == ["two: a"])
        await enqueue("one", "b")
        await eventually(lambda: ran == ["two: a", "one: b"])
        await Oban(harness.engine, schema="one").pause_queue("default")

        async def only_one_is_paused() -> None:
            for schema, paused in (("one", True), ("two", False), ("public", False)):
                (row,) = await harness.sql(f"SELECT (meta->>'paused')::bool FROM {schema}.oban_producers")
                assert row[0] is paused

        await eventually(only_one_is_paused)
        await enqueue("public", "c")
        await eventually(lambda: ran == ["two: a", "one: b", "public: c"])
    assert ids == {"one": 7, "two": 7, "public": 7}


async def test_instances_that_share_tables_lead_each_for_itself(harness: Harness, ran: list[str]) -> None:
    def entry(queue: str) -> CronEntry:
        return CronEntry("* * * * * *", "note", name="often", queue=queue, args={"what": queue})

    async with (
        harness.runner(name="Shop", node="s.1", queues={"s": 5}, registry=known(ran, "shop"), crontab=[entry("s")]),
        harness.runner(
            name="Billing", node="b.1", queues={"b": 5}, registry=known(ran, "billing"), crontab=[entry("b")]
        ),
    ):
        await eventually(lambda: {"shop: s", "billing: b"} <= set(ran))
        leaders = await harness.sql("SELECT name, node FROM oban_leaders ORDER BY name")
    assert [tuple(row) for row in leaders] == [("oban_sa.Billing", "b.1"), ("oban_sa.Shop", "s.1")]
    assert set(ran) == {"shop: s", "billing: b"}
    names = await harness.sql("SELECT name FROM oban_sa_crons ORDER BY name")
    assert [row[0] for row in names] == ["Billing: often", "Shop: often"]


async def test_an_instance_is_paused_by_its_name(harness: Harness) -> None:
    async with harness.runner(name="Shop", node="n"), harness.runner(name="Billing", node="n"):
        await Oban(harness.engine, name="Billing").pause_queue("default")

        async def only_billing() -> None:
            assert await paused_queues(harness) == {("Shop", "default"): False, ("Billing", "default"): True}

        await eventually(only_billing)
        await Oban(harness.engine, name="Shop").scale_queue("default", limit=3)

        async def only_shop() -> None:
            rows = await harness.sql("SELECT name, (meta->>'limit')::int FROM oban_producers ORDER BY name")
            assert [tuple(row) for row in rows] == [("Billing", 10), ("Shop", 3)]

        await eventually(only_shop)
        assert await paused_queues(harness) == {("Shop", "default"): False, ("Billing", "default"): True}
    # And it is still so after a restart of both.
    async with harness.runner(name="Shop", node="n"), harness.runner(name="Billing", node="n"):
        await eventually(only_billing)


async def test_the_jobs_of_a_dead_node_are_rescued_by_whichever_instance_lives(
    harness: Harness, ran: list[str]
) -> None:
    (lost,) = await harness.enqueue(Job("note"))
    dead = await harness.add(producer("s.1", name="Shop", silent_for=3600, dead_after=30))
    await harness.add(executing([lost], by=dead, node="s.1"))
    async with harness.runner(name="Billing", queues={"b": 1}):

        async def rescued() -> None:
            found = await harness.job(lost)
            assert found.state in ("available", "retryable")
            assert "s.1" in found.errors[0]["error"]

        await eventually(rescued)


# A rolling restart: the old version and the new one work on the same jobs for a while.


async def test_a_worker_that_only_the_new_version_knows_is_kept_for_it_and_done_by_it(
    harness: Harness, ran: list[str]
) -> None:
    old, new = Registry(), known(ran, "new")
    (made,) = await harness.enqueue(Job("note", max_attempts=1))
    await harness.drain(registry=old)
    async with harness.runner(registry=old), harness.runner(registry=new):
        await harness.becomes(made, "completed")
    assert ran == ["new: -"]


async def test_a_class_reads_args_that_it_does_not_know_yet(harness: Harness) -> None:
    seen: list[dict[str, Any]] = []

    @worker(registry=harness.registry, name="mail")
    class Mail:
        async def process(self, job: Job) -> None:
            seen.append({"to": job.args["to"]})

    (made,) = await harness.enqueue(Job("mail", args={"to": "ada", "language": "en"}))
    async with harness.runner():
        await harness.becomes(made, "completed")
    assert seen == [{"to": "ada"}]


async def test_a_function_refuses_args_that_it_does_not_know_yet_and_the_new_version_does_the_job(
    harness: Harness, engine: AsyncEngine, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    old, new = Registry(), Registry()
    sent: list[tuple[str, str]] = []

    @job(registry=old, name="mail")
    async def mail(to: str) -> None:
        sent.append((to, "old"))

    @job(registry=new, name="mail")
    async def mail_2(to: str, language: str = "de") -> None:
        sent.append((to, language))

    later, before = await harness.enqueue(
        Job("mail", args={"to": "ada", "language": "en"}), Job("mail", args={"to": "bob"})
    )
    async with harness.runner(registry=old):
        failed = await harness.becomes(later, "retryable")
        await harness.becomes(before, "completed")
    assert "language" in failed.errors[0]["error"]
    (again,) = await harness.enqueue(Job("mail", args={"to": "eve"}))
    async with harness.runner(registry=new):
        await Oban(engine).retry_job(later)
        await harness.becomes(later, "completed")
        await harness.becomes(again, "completed")
    assert sorted(sent) == [("ada", "en"), ("bob", "old"), ("eve", "de")]
