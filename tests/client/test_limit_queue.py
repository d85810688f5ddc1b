from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Oban, Rate
from oban_sa.errors import InvalidOption
from oban_sa.jobs.attempted_by import new_producer
from tests.client.test_queues import decided
from tests.client.test_waits import add, limits, serve
from tests.clients import ears
from tests.factories import producer

KEYED = limits(by="partition", each=2)


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
        ({"burst": True, "by": None}, "burst lets a partition exceed `each`"),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"burst": True}, "queue 'calls': burst lets a partition exceed `each`, and the queue has none; give both"),
        ({"fair": {"acme": 3}}, "fair gives weights to partitions, and the queue has none; give both: by="),
        ({"fair": True}, "fair lets partitions take turns, and the queue has none"),
    ],
)
async def test_limits_that_would_have_no_effect_are_refused(
    driven: AsyncEngine,
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    given: dict[str, Any],
    message: str,
) -> None:
    oban = Oban(driven)
    await serve(engine)
    await serve(engine, "web.2", limits=limits(global_limit=3))
    await add(engine, producer("other.1", name="Other", queue="calls", uuid=new_producer(), limits=KEYED))
    with pytest.raises(InvalidOption) as refused:
        await oban.limit_queue("calls", **given)
    assert message in str(refused.value)
    async with sessions() as session:
        with pytest.raises(InvalidOption):
            await oban.limit_queue("calls", session=session, **given)
        await session.commit()
    with pytest.raises(InvalidOption):
        await oban.start_queue("calls", limit=3, **given)
    # With what they need beside them, or decided before, they have one; and no more where that was taken away.
    await oban.limit_queue("calls", by="partition", each=5, **given)
    await oban.limit_queue("calls", **given)
    await oban.limit_queue("calls", by=None)
    with pytest.raises(InvalidOption):
        await oban.limit_queue("calls", **given)


async def test_one_node_on_which_they_have_an_effect_is_enough(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    await serve(engine)
    with pytest.raises(InvalidOption):
        await oban.limit_queue("calls", burst=True)
    await serve(engine, "web.2", limits=KEYED)
    await oban.limit_queue("calls", burst=True, fair={"acme": 3})


async def test_nothing_is_refused_where_no_living_node_of_ours_is_known(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    await add(engine, producer("python.1", queue="calls", local_limit=5, paused=False))
    await add(engine, producer("dead.1", queue="calls", uuid=new_producer(), silent_for=60.0))
    await oban.limit_queue("calls", burst=True, fair={"acme": 3})
    # Nobody declares a queue that only `start_queue` starts.
    with pytest.raises(InvalidOption, match="give both: each=5"):
        await oban.start_queue("imports", limit=3, burst=True)
    await oban.start_queue("imports", limit=3, burst=True, each=1)


async def test_nothing_is_refused_while_nodes_may_not_have_heard_of_a_reset(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    await oban.reset_queue_limits("calls")
    await serve(engine)
    await oban.limit_queue("calls", burst=True)
    async with engine.begin() as connection:
        await connection.execute(
            text("""
            UPDATE oban_sa_queues
            SET meta = meta || jsonb_build_object('Oban', meta->'Oban' || '{"by_at": "2020", "each_at": "2020"}')
            """)
        )
    with pytest.raises(InvalidOption, match="give both: each=5"):
        await oban.limit_queue("calls", burst=True)


async def test_what_switches_off_is_never_refused(engine: AsyncEngine) -> None:
    oban = Oban(engine)
    await serve(engine)
    await oban.limit_queue("calls", burst=False, fair=False)
    await oban.limit_queue("calls", global_limit=None, by=None, each=None, rate=None, burst=False, fair=True)
    await oban.reset_queue_limits("calls")
