"""What strangers wrote keeps nobody from the rest: not the runner, not the client, and no command."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Queue, Workflow, enqueue, telemetry
from oban_sa import job as as_job
from oban_sa.cli import group
from oban_sa.describe import printable
from oban_sa.errors import WorkflowNotFound
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.jobs.retention import Prune
from oban_sa.models import Base
from oban_sa.wire import json_text
from oban_sa.workers import Registry
from tests import strangers
from tests.runner.conftest import Harness
from tests.support import eventually, plain_url, sync_url

COMMANDS = (
    ("jobs", "list"),
    ("jobs", "list", "--limit", "1000", "--json"),
    ("queues", "list"),
    ("queues", "list", "--json"),
    ("status",),
    ("status", "--json"),
    ("cron", "list"),
    ("cron", "list", "--json"),
    ("sequences", "list"),
    ("sequences", "list", "--json"),
)


def says(url: str, *words: str) -> str:
    """What a command prints, once it is sure that nothing of it is obeyed by a terminal."""
    result = CliRunner().invoke(group, words, env={"OBAN_DATABASE_URL": plain_url(url)}, prog_name="python -m oban_sa")
    assert result.exit_code == 0, (words, result.output, result.exc_info)
    if "--json" in words:
        assert isinstance(json_text.read(result.stdout), dict)
    else:
        assert printable.block(result.output) == result.output, words
    return result.stdout


async def look_at_everything(url: str, ids: list[int]) -> None:
    engine = create_async_engine(url)
    try:
        async with AsyncSession(engine) as session:
            for mapper in Base.registry.mappers:
                (await session.scalars(select(mapper))).all()
        client = Oban(engine)
        for job_id in ids:
            job = await client.get_job(job_id)
            assert str(job)
        await client.check_queues()
        await client.count_jobs()
        await client.list_halted_sequences()
        for flow in strangers.UUIDS:
            with suppress(WorkflowNotFound):
                assert str(await client.workflow(flow))
    finally:
        await engine.dispose()
    for driver in ("psycopg", "psycopg2", "pg8000"):
        other = create_engine(sync_url(url, driver))
        with Session(other) as session:
            assert {job.id for job in session.scalars(select(Job))} >= set(ids), driver
        other.dispose()
    for words in (*COMMANDS, *(("jobs", "show", str(job_id), *more) for job_id in ids for more in ((), ("--json",)))):
        await asyncio.to_thread(says, url, *words)


async def change(url: str) -> None:
    engine = create_async_engine(url)
    client = Oban(engine)
    try:
        for flow in strangers.UUIDS:
            with suppress(WorkflowNotFound):
                await client.cancel_workflow(flow)
                await client.retry_workflow(flow)
        await client.cancel_jobs(Job.id > 0)
        await client.retry_jobs(Job.queue == "default")
    finally:
        await engine.dispose()


def write(url: str, rows: list[tuple[str, dict[str, Any]]]) -> list[int]:
    with psycopg.connect(plain_url(url), autocommit=True) as connection:
        # So that ids in other tables are those of jobs, or not.
        connection.execute(f"TRUNCATE {', '.join(strangers.TABLES)} RESTART IDENTITY")
        # Elixir's table allows it for these.
        for column in ("tags", "meta", "attempted_by"):
            connection.execute(f"ALTER TABLE oban_jobs ALTER {column} DROP NOT NULL")  # type: ignore[arg-type]
        for table, row in rows:
            connection.execute(*strangers.insert(table, row))  # type: ignore[arg-type]
        # No row of another table has the id of a job that is made from now on: the primary key would refuse it.
        connection.execute("ALTER SEQUENCE oban_jobs_id_seq RESTART WITH 1000")
    return there(url)


def there(url: str) -> list[int]:
    """The jobs that there are."""
    with psycopg.connect(plain_url(url)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM oban_jobs ORDER BY id")]


async def serve(url: str) -> None:
    """A runner that does all that runners do gets a healthy job done, and each of its parts works."""
    engine = create_async_engine(url)
    registry = Registry()
    done: list[int] = []

    async def known(job: Job) -> None:
        done.append(job.id)

    as_job(registry=registry, name="known", queue="default")(known)
    failed: list[telemetry.RunnerRetry] = []
    detach = telemetry.attach(failed.append, telemetry.RunnerRetry)
    harness = Harness(engine, None, registry)  # type: ignore[arg-type]
    try:
        async with harness.runner(
            crontab=[CronEntry("* * * * * *", "known", name="tick", overlap=False)],
            prune=Prune(every=0.2),
            queues={"default": 10, "limited": Queue(5, global_limit=1_000, by="partition", rate="1000/second")},
        ):
            async with AsyncSession(engine) as session, session.begin():
                healthy, limited = Job("known"), Job("known", queue="limited", meta={"partition": "a"})
                enqueue(session, healthy)
                enqueue(session, limited)
                flow = Workflow("healthy")
                flow.add("last", Job("known"), deps=[flow.add("first", Job("known"))])
                enqueue(session, flow)

            async def finished() -> None:
                assert {healthy.id, limited.id} <= set(done)
                assert not failed
                status = await Oban(engine).workflow(flow)
                assert status.state == "completed", status
                async with AsyncSession(engine) as session:
                    ticked = await session.scalars(select(Job.id).where(Job.meta["cron_name"].astext == "tick"))
                    assert ticked.all()

            await eventually(finished, 20)
        assert not failed
    finally:
        detach()
        await engine.dispose()


ROWS = st.lists(
    st.sampled_from(sorted(strangers.TABLES)).flatmap(
        lambda table: strangers.TABLES[table].map(lambda row: (table, row))
    ),
    min_size=40,
    max_size=40,
)


@settings(
    max_examples=3, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(rows=ROWS)
def test_hostile_rows_hold_up_neither_runners_nor_readers(database_url: str, rows: list[Any]) -> None:
    ids = write(database_url, rows)
    asyncio.run(look_at_everything(database_url, ids))
    asyncio.run(serve(database_url))
    asyncio.run(look_at_everything(database_url, there(database_url)))  # those long over were pruned
    asyncio.run(change(database_url))
    asyncio.run(serve(database_url))
