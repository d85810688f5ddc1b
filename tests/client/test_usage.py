"""How much of the limits of queues is used, and which nodes do not observe them."""

from __future__ import annotations

import warnings
from datetime import timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban, Rate
from oban_sa.client import LimitUse, PartitionUse
from oban_sa.errors import LimitsNotObserved
from oban_sa.jobs.attempted_by import new_producer
from tests.client.test_waits import add, execute, limits, serve, spend
from tests.clients import stored
from tests.factories import producer

ELIXIR = "018f0000-0000-7000-8000-000000000000"


async def test_a_queue_without_limits_is_not_told_of(engine: AsyncEngine) -> None:
    await serve(engine)
    assert await Oban(engine).check_limits() == []


async def test_the_slots_of_a_queue_in_the_cluster_are_counted(driven: AsyncEngine, engine: AsyncEngine) -> None:
    given = limits(global_limit=5)
    uuid = await serve(engine, limits=given)
    await serve(engine, "web.2", limits=given)
    await serve(engine, "web.3", limits=limits(global_limit=6))
    await add(engine, producer("dead.1", queue="calls", silent_for=40.0, limits=limits(global_limit=7)))
    await execute(engine, 3, by=uuid)
    await execute(engine, 3, by=uuid, queue="other")
    one, two = await Oban(driven).check_limits()
    assert (one.queue, one.nodes, one.executing, one.limits.as_json()) == ("calls", ("web.1", "web.2"), 3, given)
    assert (two.nodes, two.executing, two.limits.global_limit) == (("web.3",), 3, 6)
    assert (one.left, one.until, one.full, one.foreign) == (None, None, (), ())


async def test_what_a_rate_has_left_is_told_and_when_there_is_more(engine: AsyncEngine) -> None:
    rate = Rate(10, per="1 hour")
    await serve(engine, limits=limits(rate=rate))

    async def look() -> LimitUse:
        [use] = await Oban(engine).check_limits()
        return use

    assert ((await look()).left, (await look()).until) == (10, None)
    await spend(engine, rate, 4)
    assert ((await look()).left, (await look()).until) == (6, None)
    until = await spend(engine, rate, 6)
    use = await look()
    assert use.left == 0
    assert use.until is not None
    assert abs(use.until - until) < timedelta(seconds=0.01)


async def test_the_rate_of_each_partition_is_not_the_queue_s(engine: AsyncEngine) -> None:
    await serve(engine, limits=limits(by="partition", rate="5/hour"))
    assert [each.left for each in await Oban(engine).check_limits()] == [None]
    await serve(engine, queue="shared", limits=limits(by="partition", rate=Rate(5, per=60, shared=True)))
    assert [each.left for each in await Oban(engine).check_limits()] == [None, 5]


async def test_full_partitions_are_told_with_what_waits(driven: AsyncEngine, engine: AsyncEngine) -> None:
    uuid = await serve(engine, limits=limits(by="partition", each=2))
    for number in range(12):
        await execute(engine, 2, by=uuid, meta={"partition": f"full{number:02}"})
    await execute(engine, 3, by=uuid, meta={"partition": "over"})
    await execute(engine, 1, by=uuid, meta={"partition": "half"})
    await stored(
        engine,
        *(Job("app.Call", queue="calls", priority=n % 3, meta={"partition": "full00"}) for n in range(7)),
        Job("app.Call", queue="calls", meta={"partition": "half"}),
        Job("app.Call", queue="other", meta={"partition": "full00"}),
        Job("app.Call", queue="calls", meta={"partition": "full00"}, schedule_in=60),
    )
    [use] = await Oban(driven).check_limits()
    assert use.full[:3] == (PartitionUse("over", 3, 0), PartitionUse("full00", 2, 7), PartitionUse("full01", 2, 0))
    assert (len(use.full), use.full_count) == (10, 13)


async def test_nodes_that_do_not_observe_limits_are_told(engine: AsyncEngine) -> None:
    given = limits(global_limit=5)
    await serve(engine, limits=given)
    await add(engine, producer("python.1", queue="calls", limit=5))  # as oban-py writes it
    await add(engine, producer("python.2", queue="calls", limit=5, silent_for=100))
    await add(engine, producer("python.3", queue="other", limit=5))
    await add(engine, producer("other.1", queue="calls", name="Other", uuid=new_producer(), limit=5))
    await add(engine, producer("other.2", queue="calls", name="Other", uuid=new_producer(), limit=5, limits=given))
    await execute(engine, 1, by=ELIXIR)
    [use] = await Oban(engine).check_limits()
    assert use.foreign == ("other.1", "python.1", "web.1")  # the last is the name that the holder's job has


async def test_verify_warns_of_limits_that_a_node_does_not_observe(driven: AsyncEngine, engine: AsyncEngine) -> None:
    await add(engine, producer("python.1", queue="calls", limit=5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await Oban(driven).verify()  # no limits, nothing to observe
        await serve(engine, limits=limits(global_limit=5))
    with pytest.warns(LimitsNotObserved) as caught:
        await Oban(driven).verify()
    [warned] = caught
    assert str(warned.message) == (
        "The queue calls has limits, and python.1 serves it without observing them, so they do not hold. Give its jobs "
        "a queue of another name, or stop the queue there."
    )
    assert warned.filename == __file__
