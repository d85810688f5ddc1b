from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, JobState, Oban
from oban_sa.errors import InvalidOption
from tests.clients import ears, stored

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


def of(key: str, state: str = "available", *, halts: bool = True, queue: str = "ledger", **more: Any) -> Job:
    meta = {"sequence": key, "halts": True} if halts else {"sequence": key}
    if state == "discarded":
        more = {"discarded_at": MOMENT, **more}
    return Job("app.Book", state=JobState(state), queue=queue, meta=meta, **more)


async def test_halted_sequences_are_listed_with_what_waits_behind(driven: AsyncEngine, engine: AsyncEngine) -> None:
    jobs = await stored(
        engine,
        of("a", "completed"),
        of("a", "discarded"),
        of("a"),
        of("a", "scheduled"),
        of("a", queue="other"),
        of("b", "discarded", halts=False),
        of("b"),
        of("c"),
        of("d", "cancelled"),
        of("e", "discarded", discarded_at=MOMENT.replace(year=2025)),
        Job("app.Book", state=JobState.DISCARDED, meta={"halts": True}),
    )
    found = await Oban(driven).list_halted_sequences()
    assert [(each.queue, each.key, each.job_id, each.waiting) for each in found] == [
        ("ledger", "e", jobs[9].id, 0),
        ("ledger", "a", jobs[1].id, 2),
    ]
    assert (found[1].worker, found[1].discarded_at) == ("app.Book", MOMENT)


async def test_a_sequence_goes_on_without_the_job_that_halted_it(
    driven: AsyncEngine, engine: AsyncEngine, database_url: str
) -> None:
    oban = Oban(driven)
    jobs = await stored(
        engine, of("3", "discarded"), of("3"), of("4", "discarded"), of("3", "discarded", queue="other")
    )
    async with ears(database_url) as listening:
        assert await oban.resume_sequence("ledger", 3) == [jobs[0].id]
        assert await listening.heard() == [("insert", {"queue": "ledger"})]
        assert await oban.resume_sequence("ledger", 3) == []
        assert await oban.resume_sequence("ledger", "never") == []
        assert await listening.heard() == []
    assert {each.job_id for each in await oban.list_halted_sequences()} == {jobs[2].id, jobs[3].id}
    async with AsyncSession(engine) as session:
        resumed = (await session.scalars(select(Job).where(Job.id == jobs[0].id))).one()
    assert (resumed.state, resumed.meta) == ("discarded", {"sequence": "3"})


async def test_it_goes_on_with_the_transaction_of_a_session(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    oban = Oban(engine)
    [halting] = await stored(engine, of('["x", 1]', "discarded"))
    async with sessions() as session:
        loaded = (await session.scalars(select(Job).where(Job.id == halting.id))).one()
        assert await oban.resume_sequence("ledger", ("x", 1), session=session) == [halting.id]
        assert "halts" not in loaded.meta
        await session.rollback()
    assert len(await oban.list_halted_sequences()) == 1


@pytest.mark.parametrize("key", [None, 1.5, {"a": 1}])
async def test_what_is_no_key_is_refused(engine: AsyncEngine, key: object) -> None:
    with pytest.raises(InvalidOption):
        await Oban(engine).resume_sequence("ledger", key)


async def test_a_retried_job_halts_no_more_until_it_is_discarded_again(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    [halting] = await stored(engine, of("3", "discarded", attempt=1, max_attempts=1))
    await oban.retry_job(halting.id)
    assert await oban.list_halted_sequences() == []
    async with AsyncSession(engine) as session:
        assert (await session.scalars(select(Job))).one().meta == {"sequence": "3", "halts": True}
