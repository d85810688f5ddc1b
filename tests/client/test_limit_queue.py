from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Oban, Rate
from oban_sa.errors import InvalidOption
from tests.client.test_queues import decided
from tests.clients import ears


async def test_limits_are_kept_and_told_on_a_channel_of_ours(engine: AsyncEngine, database_url: str) -> None:
    oban = Oban(engine)
    async with ears(database_url) as listening:
        await oban.limit_queue("calls", global_limit=30, by="partition", each=5, rate="60/minute", fair={"acme": 3})
        assert await listening.heard() == [("nodes", {"queue": "calls", "name": "Oban"})]
        await oban.limit_queue("calls", each=None, rate=Rate(10, per=1), burst=False)
        await oban.scale_queue("calls", limit=4)
    assert await decided(engine, "calls") == {
        "Oban": {
            "global_limit": 30,
            "by": "partition",
            "each": None,
            "rate": {"n": 10, "per": 1.0},
            "burst": False,
            "fair": {"acme": 3},
            "limit": 4,
        }
    }


async def test_limits_are_set_back_to_those_of_the_settings(engine: AsyncEngine, database_url: str) -> None:
    oban = Oban(engine)
    await oban.limit_queue("calls", global_limit=30)
    async with ears(database_url) as listening:
        await oban.reset_queue_limits("calls")
        assert await listening.heard() == [("nodes", {"queue": "calls", "name": "Oban"})]
    kept = (await decided(engine, "calls"))["Oban"]
    assert set(kept.values()) == {"declared"}


async def test_limits_are_set_in_the_transaction_of_a_session(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], database_url: str
) -> None:
    oban = Oban(engine)
    async with ears(database_url) as listening:
        async with sessions() as session:
            await oban.limit_queue("calls", global_limit=30, session=session)
            await session.rollback()
        assert await listening.heard() == []
        async with sessions() as session:
            await oban.limit_queue("calls", global_limit=30, session=session)
            await oban.reset_queue_limits("other", session=session)
            await session.commit()
        assert {message["queue"] for _, message in await listening.heard()} == {"calls", "other"}
    assert (await decided(engine, "calls"))["Oban"] == {"global_limit": 30}


async def test_a_queue_is_started_with_limits_that_no_signal_carries(engine: AsyncEngine, database_url: str) -> None:
    async with ears(database_url) as listening:
        await Oban(engine).start_queue("calls", limit=3, global_limit=5, rate="1/s")
        heard = await listening.heard()
    # The limits first, so that a node that starts the queue reads them before it fetches.
    assert heard == [
        ("nodes", {"queue": "calls", "name": "Oban"}),
        ("signal", {"action": "start", "queue": "calls", "ident": "any", "limit": 3}),
    ]
    assert (await decided(engine, "calls"))["Oban"] == {
        "limit": 3, "paused": False, "global_limit": 5, "rate": {"n": 1, "per": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "no limit is named; write for example global_limit=30"),
        ({"gobal_limit": 3}, "a queue has no limit 'gobal_limit'; did you mean 'global_limit'?"),
        ({"limit": 3}, "write scale_queue(queue, limit=...)"),
        ({"each": 3, "by": None}, 'write by="partition"'),
        ({"fair": {"acme": 3}, "by": None}, 'write by="partition"'),
        ({"burst": True, "each": None}, "burst lets a partition exceed `each`"),
        ({"global_limit": 0}, "global_limit is a number from 1"),
        ({"rate": "60/minte"}, "did you mean 'minute'?"),
        ({"by": "args.tenant_id"}, '@worker(partition="args.tenant_id")'),
    ],
)
async def test_limits_that_can_not_be_are_refused(engine: AsyncEngine, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        await Oban(engine).limit_queue("calls", **limits)
    assert message in str(refused.value)


async def test_a_queue_is_not_started_with_limits_that_can_not_be(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidOption, match="did you mean 'each'"):
        await Oban(engine).start_queue("calls", limit=3, eahc=2)  # type: ignore[call-arg]


async def test_all_queues_have_no_limit_in_common(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidOption, match="is no queue"):
        await Oban(engine).limit_queue("*", global_limit=3)
