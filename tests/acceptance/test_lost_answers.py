"""Session jobs whose commit nobody answers: it may have happened, or not, and either way they are done once."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import enqueue_many
from tests.acceptance import ledger_jobs
from tests.acceptance.chaos.proxy import cutting
from tests.acceptance.ledger_jobs import DEPTH, Entry, EntryInThread, Link
from tests.support import eventually, forked, plain_url

JOBS = 60
CHAINS = 6


async def test_commits_whose_answers_are_lost_count_once(
    database_url: str, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async with engine.begin() as connection:
        for statement in ledger_jobs.TABLES:
            await connection.execute(text(statement))
    async with sessions.begin() as session:
        enqueue_many(session, [(Entry, EntryInThread)[n % 2].new() for n in range(JOBS)])
        enqueue_many(session, [Link.new({"chain": chain, "link": 1}) for chain in range(CHAINS)])

    async def ask(statement: str) -> list[tuple[object, ...]]:
        async with sessions() as session:
            return [tuple(row) for row in await session.execute(text(statement))]

    async def completed() -> None:
        states = await ask("SELECT state::text, count(*) FROM oban_jobs GROUP BY 1")
        assert states == [("completed", JOBS + CHAINS * DEPTH)], await ask(
            "SELECT id, args, state, errors FROM oban_jobs"
        )

    async with cutting(database_url, share=0.3) as cutter:
        words = ["-m", "oban_sa.runner", "--database-url", plain_url(cutter.url) + "?sslmode=disable"]
        flags = ["--import", "tests.acceptance.ledger_jobs", "--queues", "default:10", "--log-level", "warning"]
        with forked([*words, *flags]) as runner:
            await eventually(completed, 120, every=0.2)
            runner.terminate()
            assert await runner.ended(30) == 0, runner.output
    assert all(cutter.cuts[kind] for kind in ("before", "amid", "after")), cutter.cuts
    assert await ask("SELECT job_id FROM ledger GROUP BY 1 HAVING count(*) > 1") == []
    assert await ask("SELECT (SELECT count(*) FROM ledger), value FROM counter") == [(JOBS, JOBS)]
    assert await ask("SELECT link, count(*) FROM links GROUP BY 1 ORDER BY 1") == [
        (link, CHAINS) for link in range(1, DEPTH + 1)
    ]
