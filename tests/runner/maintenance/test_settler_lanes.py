"""Lanes are booked together where they are free, and one by one where one of them can't be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from oban_sa import Job, Workflow, chain, enqueue, telemetry
from oban_sa.jobs.flow import lane_of
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import settler as settling
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.sql.locks import lane_key
from tests.runner.conftest import Harness

FIRST_ENDED = (
    "WITH done AS (UPDATE oban_jobs SET state = 'completed' WHERE meta ->> 'name' = '1' RETURNING id, meta) "
    "INSERT INTO oban_sa_endings (lane, job_id) SELECT (meta ->> 'lane')::int, id FROM done"
)


@pytest.fixture
async def settler(harness: Harness) -> AsyncIterator[Settler]:
    source = telemetry.Source(node="settling")
    leader = Leader(Database(harness.engine), source=source, lasts=60)
    made = Settler(Database(harness.engine), leader, source=source)
    yield made
    await made.close()
    await leader.close()


async def chains(harness: Harness) -> list[Workflow]:
    """Write workflows of two jobs, in several lanes."""
    flows = [chain(Job("w"), Job("w")) for _ in range(20)]
    async with harness.sessions.begin() as session:
        for flow in flows:
            enqueue(session, flow)
    return flows


async def completed(harness: Harness, flow: Workflow) -> int:
    [row] = await harness.sql("SELECT completed FROM oban_sa_flows WHERE id = :id", id=flow.id)
    return int(row[0])


async def test_all_free_lanes_are_booked_in_one_statement(
    harness: Harness, settler: Settler, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    flows = await chains(harness)
    lanes = {lane_of(flow.id) for flow in flows}
    taken = min(lanes)
    await harness.sql(FIRST_ENDED)
    async with harness.engine.begin() as other:
        await other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lane_key("public", taken)})
        await settler.tick()
        [event] = of(telemetry.SettlerSettle)
        assert set(event.lanes) == lanes - {taken}
    await asyncio.sleep(settler.rests)
    await settler.tick()
    assert await harness.sql("SELECT * FROM oban_sa_endings") == []
    assert {await completed(harness, flow) for flow in flows} == {1}


async def test_a_lane_that_can_not_be_booked_keeps_back_no_other(harness: Harness, settler: Settler) -> None:
    flows = await chains(harness)
    bad = flows[0]
    await harness.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF NEW.root_id = '{bad.id}' THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $$"
    )
    await harness.sql("CREATE TRIGGER refuse BEFORE UPDATE ON oban_sa_flows FOR EACH ROW EXECUTE FUNCTION refuse()")
    await harness.sql(FIRST_ENDED)
    with pytest.raises(asyncpg.PostgresError, match="no"):
        await settler.tick()
    lane = lane_of(bad.id)
    counted = {flow.id: await completed(harness, flow) for flow in flows}
    assert counted == {flow.id: int(lane_of(flow.id) != lane) for flow in flows}


async def test_what_waits_for_one_is_released_in_steps(
    harness: Harness,
    settler: Settler,
    of: Callable[[type[telemetry.Event]], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fetch looks at each row that a statement under way has released, and finds none of them there."""
    monkeypatch.setattr(settling, "LIMIT", 10)
    flow = Workflow()
    flow.add("1", Job("w"))
    for number in range(35):
        flow.add(f"after {number}", Job("w"), deps="1")
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    await harness.sql(FIRST_ENDED)
    await settler.tick()
    assert [event.released for event in of(telemetry.SettlerSettle)] == [10, 10, 10, 5]
    assert await harness.states() == {"completed": 1, "available": 35}
