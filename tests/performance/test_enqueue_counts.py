"""How many round trips it takes to enqueue without a flush, BEGIN and COMMIT included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Oban
from tests.performance.sent import Sent


@pytest.fixture
async def sent(engine: AsyncEngine) -> AsyncIterator[Sent]:
    """What the engine's connection sends after its first transaction."""
    found = Sent()
    with found.watching(engine):
        await Oban(engine).enqueue(Job("warm"))
        await told()
        found.statements.clear()
        yield found


async def told() -> None:
    """Wait until asyncpg has told of what was sent, which it does from the event loop."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_job_without_a_session_is_one_round_trip(engine: AsyncEngine, sent: Sent) -> None:
    oban = Oban(engine)
    for number in range(5):
        await oban.enqueue(Job("w", args={"n": number}))
    await told()
    assert len(sent.statements) == 5
    assert all("oban_jobs" in statement and "pg_notify" in statement for statement in sent.statements)


@pytest.mark.parametrize("ids", [False, True])
async def test_many_jobs_in_a_session_are_a_round_trip_for_each_thousand(
    engine: AsyncEngine, sent: Sent, ids: bool
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await Oban(engine).enqueue_many((Job("w") for _ in range(4_000)), session=session, ids=ids)
    await told()
    assert len(sent.about_jobs()) == 4
    assert sum("pg_notify" in statement for statement in sent.statements) == 1
    others = [statement for statement in sent.statements if statement not in sent.about_jobs()]
    assert [statement.strip(";").split()[0] for statement in others] == ["BEGIN", "COMMIT"]
