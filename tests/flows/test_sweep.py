"""The leader finds members that ended without a note, as where another program acked or deleted them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, Workflow, chain, enqueue, telemetry
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import settler as settling
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.sql.workflow import sweep

SOURCE = telemetry.Source(node="sweeping")


@pytest.fixture
async def leader(engine: AsyncEngine) -> AsyncIterator[Leader]:
    made = Leader(Database(engine), source=SOURCE, lasts=60)
    yield made
    await made.close()


@pytest.fixture
async def settler(engine: AsyncEngine, leader: Leader) -> AsyncIterator[Settler]:
    made = Settler(Database(engine), leader, source=SOURCE)
    yield made
    await made.close()


async def write(sessions: async_sessionmaker[AsyncSession], *flows: Workflow) -> None:
    async with sessions.begin() as session:
        for flow in flows:
            enqueue(session, flow)


async def by_hand(engine: AsyncEngine, statement: str) -> list[tuple[object, ...]]:
    async with engine.begin() as connection:
        result = await connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


STATES = "SELECT worker, state::text FROM oban_jobs ORDER BY id"
COMPLETE = "UPDATE oban_jobs SET state = 'completed', completed_at = now() WHERE worker = 'a'"


@pytest.mark.parametrize(
    ("statement", "then"),
    [
        (COMPLETE, [("a", "completed"), ("b", "available")]),
        (COMPLETE.replace("completed", "cancelled"), [("a", "cancelled"), ("b", "cancelled")]),
        (COMPLETE.replace("completed", "discarded"), [("a", "discarded"), ("b", "cancelled")]),
        ("DELETE FROM oban_jobs WHERE worker = 'a'", [("b", "cancelled")]),
        ("UPDATE oban_jobs SET state = 'retryable' WHERE worker = 'a'", [("a", "retryable"), ("b", "suspended")]),
    ],
)
async def test_what_another_program_did_to_a_member_is_booked(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    leader: Leader,
    settler: Settler,
    statement: str,
    then: list[tuple[str, str]],
) -> None:
    await write(sessions, chain(Job("a"), Job("b")))
    await by_hand(engine, statement)
    await leader.tick()
    await settler.tick()
    assert await by_hand(engine, STATES) == then


async def test_where_a_deleted_dependency_is_forgiven_what_waits_for_it_begins(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], leader: Leader, settler: Settler
) -> None:
    flow = Workflow()
    flow.add("a", Job("a"))
    flow.add("b", Job("b"), deps="a", forgive="deleted")
    await write(sessions, flow)
    await by_hand(engine, "DELETE FROM oban_jobs WHERE worker = 'a'")
    await leader.tick()
    await settler.tick()
    assert await by_hand(engine, STATES) == [("b", "available")]


async def test_a_node_that_does_not_lead_leaves_it_to_the_leader(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], settler: Settler
) -> None:
    await write(sessions, chain(Job("a"), Job("b")))
    await by_hand(engine, COMPLETE)
    await settler.tick()
    assert await by_hand(engine, STATES) == [("a", "completed"), ("b", "suspended")]


def sweep_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SWEEP_EVERY", 0)
    monkeypatch.setattr(settling, "SWEEP_RESTS", 0)


async def test_a_look_goes_on_where_the_last_one_ended_and_begins_anew(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    leader: Leader,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_always(monkeypatch)
    monkeypatch.setattr(settling, "SWEPT", 2)
    await write(sessions, *(chain(Job("other" if number < 4 else "a"), Job("b")) for number in range(5)))
    await by_hand(engine, COMPLETE)
    await leader.tick()
    for _ in range(5):  # two of the ten members each time
        await settler.tick()
    assert ("b", "available") in await by_hand(engine, STATES)
    await by_hand(engine, COMPLETE.replace("'a'", "'other'"))
    for _ in range(11):  # one that finds the end, two rounds of those flows that are left
        await settler.tick()
    assert ("b", "suspended") not in await by_hand(engine, STATES)


async def test_each_look_sees_all_where_there_are_few(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    leader: Leader,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_always(monkeypatch)
    await write(sessions, chain(Job("a"), Job("b")))
    await leader.tick()
    await settler.tick()
    await by_hand(engine, COMPLETE)
    await settler.tick()
    assert await by_hand(engine, STATES) == [("a", "completed"), ("b", "available")]


async def test_a_look_rests_for_so_many_times_as_long_as_it_takes(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    leader: Leader,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_always(monkeypatch)
    monkeypatch.setattr(settling, "SWEEP_RESTS", 1_000_000)
    await write(sessions, chain(Job("a"), Job("b")))
    await leader.tick()
    await settler.tick()
    await by_hand(engine, COMPLETE)
    await settler.tick()
    assert await by_hand(engine, STATES) == [("a", "completed"), ("b", "suspended")]


async def test_a_look_reads_only_flows_that_are_not_over(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    """As many pages as their members need, beside ten times as many members of flows that are over."""
    flow = Workflow()
    flow.add_many("live", [Job("w") for _ in range(300)])
    await write(sessions, flow)
    await by_hand(
        engine,
        "WITH over AS (INSERT INTO oban_sa_flows (id, root_id, path, kind, lane, completed_at) "
        "SELECT id, id, ARRAY[id], 'workflow', 1, now() FROM (SELECT gen_random_uuid() AS id "
        "FROM generate_series(1, 3000)) AS made RETURNING id) "
        "INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled) "
        "SELECT 10000 + row_number() OVER (), id, 'x', 0, 'c' FROM over",
    )
    async with engine.connect() as connection:
        explained = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sweep('public').text}")
        [found] = await connection.scalar(explained, {"after_flow": UUID(int=0), "after_name": "", "limit": 10_000})
        buffers = found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
        # Of a member its page and its entry; of its job a row and the walk of an index.
        assert buffers < 8 * 300


async def test_a_look_goes_on_within_a_flow(
    engine: AsyncEngine,
    sessions: async_sessionmaker[AsyncSession],
    leader: Leader,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_always(monkeypatch)
    monkeypatch.setattr(settling, "SWEPT", 3)
    flow = Workflow()
    for number in range(10):
        flow.add(f"{number}", Job("a"))
    flow.add("last", Job("b"), deps=[f"{number}" for number in range(10)])
    await write(sessions, flow)
    await by_hand(engine, COMPLETE)
    await leader.tick()
    for _ in range(4):
        await settler.tick()
        await asyncio.sleep(settler.rests)  # under load it lets notes gather
    assert ("b", "available") in await by_hand(engine, STATES)
