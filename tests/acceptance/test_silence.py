"""A runner that was told to stop ends, also where the database is silent: connections are open and nothing answers."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Job
from tests.acceptance.house import enqueue
from tests.databases import Databases
from tests.proxy import CountingProxy, open_proxy
from tests.support import eventually, forked, plain_url

WORDS = ["-m", "oban_sa.runner", "--queues", "default:2", "--grace", "1", "--import", "tests.acceptance.silent_jobs"]
JOBS = [None, "waits", "in_statement", "in_statement_in_thread", "in_to_thread"]


async def test_a_runner_told_to_stop_ends_though_nothing_answers(databases: Databases) -> None:
    """All at once, since each waits for a quarter of a minute and does nothing."""
    async with asyncio.TaskGroup() as group:
        for name in JOBS:
            group.create_task(stops_in_silence(databases, name), name=f"{name} under way")


async def stops_in_silence(databases: Databases, name: str | None) -> None:
    with databases.fresh() as database_url:
        if name is not None:
            engine = create_async_engine(database_url)
            await enqueue(engine, Job(f"tests.acceptance.silent_jobs.{name}"))
            await engine.dispose()
        async with open_proxy(CountingProxy(database_url)) as proxy:
            url = plain_url(proxy.url) + "?sslmode=disable"
            with forked([*WORDS, "--database-url", url]) as runner:
                await runner.says("running default:2")
                await runner.says("listening for new jobs")
                if name is not None:
                    await runner.says("begun")
                proxy.freeze()
                # Parts have statements under way that nobody answers: some since before, and the next beat at the
                # latest.
                sent = proxy.sent
                await eventually(lambda: proxy.sent > sent)
                runner.terminate()
                assert await runner.ended(60) == 0, (name, runner.output)
                assert "stopped after" in runner.output, name
                assert "Exception closing connection" not in runner.output, name
