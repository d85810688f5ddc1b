"""Unique jobs among very many: written outside of a session, and in one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa.bulk import copy
from oban_sa.client import Oban
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.models import Job


def unique(number: int, **options: object) -> Job:
    return Job("app.Index", args={"number": number}, unique=Unique(**options))  # type: ignore[arg-type]


async def numbers(engine: AsyncEngine) -> list[int]:
    async with AsyncSession(engine) as session:
        found = await session.scalars(select(Job).where(Job.worker == "app.Index").order_by(Job.id))
        return [job.args["number"] for job in found]


async def test_a_duplicate_is_not_written_and_does_not_count(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    assert await oban.enqueue_many(unique(number) for number in (1, 2, 3)) == 3
    mixed = [Job("plain"), unique(2), unique(4), Job("plain"), unique(4), Job("plain")]
    assert await oban.enqueue_many(mixed) == 4
    assert await numbers(driven) == [1, 2, 3, 4]
    assert mixed[1].conflict is not None and mixed[1].conflict.state == JobState.AVAILABLE
    assert mixed[2].conflict is None
    assert mixed[4].conflict is not None and mixed[4].conflict.id == mixed[2].id


async def test_what_another_way_has_written_stands_in_the_way(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    await oban.enqueue(unique(1))
    assert await oban.enqueue_many([unique(1), unique(2)]) == 1
    conflict = (await oban.enqueue(unique(2))).conflict
    assert conflict is not None
    assert await numbers(engine) == [1, 2]


async def test_what_is_replaced_gets_the_newest_values(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    first = await oban.enqueue(unique(1, keys=["number"], replace=["priority"]))
    again = unique(1, keys=["number"], replace=["priority"])
    again.priority = 7
    assert await oban.enqueue_many([again]) == 0
    assert (await oban.get_job(first)).priority == 7


async def test_two_loads_of_the_same_keys_do_not_wait_for_each_other(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "OBJECTS", 5)
    monkeypatch.setattr(copy, "TURN", 5)
    oban = Oban(engine)

    async def load(which: Iterable[int]) -> int:
        async def slowly() -> AsyncIterator[Job]:
            for number in which:
                yield unique(number)
                await asyncio.sleep(0.002)

        return await oban.enqueue_many(slowly())

    written = await asyncio.gather(load(range(40)), load(reversed(range(40))))
    assert sum(written) == 40
    async with AsyncSession(engine) as session:
        each = (await session.execute(select(func.count(Job.id)).group_by(Job.args["number"].astext))).scalars()
        assert list(each) == [1] * 40
