"""A runner that was told to stop ends, also where the database is silent: connections are open and nothing answers."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from oban_sa import Job, enqueue
from tests.proxying import proxied
from tests.support import eventually, plain_url, process

WORDS = ["-m", "oban_sa.runner", "--queues", "default:2", "--grace", "1", "--import", "tests.acceptance.silent_jobs"]
JOBS = [None, "waits", "in_statement", "in_statement_in_thread", "in_to_thread"]


@pytest.mark.parametrize("name", JOBS)
async def test_a_runner_told_to_stop_ends_though_nothing_answers(
    database_url: str, sessions: async_sessionmaker[AsyncSession], name: str | None
) -> None:
    if name is not None:
        async with sessions.begin() as session:
            enqueue(session, Job(f"tests.acceptance.silent_jobs.{name}"))
    async with proxied(database_url) as proxy:
        url = plain_url(proxy.url) + "?sslmode=disable"
        with process([*WORDS, "--database-url", url]) as runner:
            await runner.says("running default:2")
            await runner.says("listening for new jobs")
            if name is not None:
                await runner.says("begun")
            proxy.freeze()
            # Parts have statements under way that nobody answers: some since before, and the next beat at the latest.
            sent = proxy.sent
            await eventually(lambda: proxy.sent > sent)
            runner.terminate()
            assert await runner.ended(60) == 0, runner.output
            assert "stopped after" in runner.output
            assert "Exception closing connection" not in runner.output
