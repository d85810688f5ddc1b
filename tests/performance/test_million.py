"""What the hot statements read, write and which indexes they use, beside a million rows of jobs that are over.

Counts, never times. Each is planned as where it really runs: a producer's on a connection that keeps its plans, the
others on a runner's other connections, and the ack of a session worker on the application's own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa.jobs.retention import Prune
from oban_sa.jobs.states import JobState
from oban_sa.runner.database.database import Database
from oban_sa.sql.lacking_keys import along, newest
from oban_sa.sql.prune import prune, too_many
from tests.performance.conftest import BATCH
from tests.sql.compiling import STATEMENTS, compiled
from tests.sql.test_plans import KEY, STAGING, STATE, VALUES
from tests.support import plain_url

COMPLETED = "oban_jobs_completed_at_index"
RULE = next(rule for rule in Prune().rules if rule.state == JobState.COMPLETED)
HOT = {**STATEMENTS, "prune": prune(RULE), "too_many": too_many(RULE), "newest": newest(), "along": along()}


@dataclass
class Plan:
    """What running a statement took: the nodes that read a table, buffers, rows written, bytes of WAL.

    Where whole pages went into the WAL, as after each checkpoint of a server that keeps them, `wal` is None.
    """

    buffers: int
    wal: int | None
    written: int = 0
    nodes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def scanned(self) -> list[str]:
        """Tables of jobs that are read from one end to the other."""
        return [node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan" and _jobs(node)]

    def read(self, index: str) -> int:
        """Entries of an index that were looked at, whether they were wanted or not."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.nodes
            if node.get("Index Name") == index
        )


@pytest.fixture
async def engine(table: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(table)
    yield made
    await made.dispose()


@pytest.fixture
async def producer(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """A connection as producers have them."""
    connection = await Database(engine).connect(keeps_plans=True)
    yield connection
    await connection.close()


@pytest.fixture
async def house(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the runner's other parts have them."""
    connection = await Database(engine).connect()
    yield connection
    await connection.close()


@pytest.fixture
async def application(table: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the application's, about whose planner nobody has said anything."""
    connection = await asyncpg.connect(plain_url(table))
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", ["ack", "ack_and_fetch", "complete_and_fetch"])
async def test_outcomes_are_written_by_primary_key(producer: asyncpg.Connection, name: str) -> None:
    plan = await ran(producer, name, **await outcomes(producer))
    assert plan.written == BATCH * (2 if "fetch" in name else 1)
    assert KEY in plan.indexes
    assert plan.scanned == []
    assert not [node for node in plan.nodes if node.get("Index Name") == STATE and "executing" in condition(node)]
    # A row's own page, the primary key, and those indexes that a change of state enters.
    assert plan.buffers / plan.written < 24
    assert plan.wal is None or plan.wal / plan.written < 700


async def test_a_fetch_reads_no_more_than_it_takes(producer: asyncpg.Connection) -> None:
    plan = await ran(producer, "fetch")
    assert plan.written == BATCH
    assert plan.scanned == []
    assert plan.read(STATE) <= BATCH
    assert plan.buffers / BATCH < 24
    # Some split a page of an index, which is written whole.
    assert plan.wal is None or plan.wal / BATCH < 700


async def test_the_ack_of_a_session_worker_finds_its_row_by_primary_key(application: asyncpg.Connection) -> None:
    found = await outcomes(application)
    given = {"job_id": found["ids"][0], "said_attempt": 1}
    for planned in ("force_custom_plan", "force_generic_plan"):
        await application.execute(f"SET plan_cache_mode = {planned}")
        plan = await ran(application, "ack_one", **given)
        assert plan.written == 1
        assert plan.indexes == {KEY}
        assert plan.buffers < 60


async def test_staging_looks_at_what_is_due_and_one_ahead(house: asyncpg.Connection) -> None:
    plan = await ran(house, "stage")
    assert STAGING in plan.indexes
    assert STATE not in plan.indexes
    assert plan.scanned == []
    assert plan.read(STAGING) <= 1


@pytest.mark.parametrize("name", ["unheard", "restore", "rescue", "abandoned"])
async def test_looking_for_the_lost_reads_what_is_executing(
    house: asyncpg.Connection, producer: asyncpg.Connection, name: str
) -> None:
    plan = await ran(producer if name == "unheard" else house, name)
    assert plan.scanned == []
    assert plan.read(STATE) <= BATCH
    assert plan.buffers < 20 * BATCH


async def test_looking_for_jobs_without_a_key_reads_one_page(house: asyncpg.Connection) -> None:
    page = {"limit": BATCH, "queues": ["default"], "before": 2**62, "priority": -1, "scheduled_at": datetime(1, 1, 1)}
    for name, index in (("newest", KEY), ("along", STATE)):
        plan = await ran(house, name, **page)
        assert plan.indexes == {index}, name
        assert plan.scanned == []
        assert plan.read(index) <= BATCH
        # A row's own page, and those of the index, with what other tests have rolled back.
        assert plan.buffers < 4 * BATCH


async def test_pruning_walks_the_index_of_its_state(house: asyncpg.Connection) -> None:
    plan = await ran(house, "prune")
    assert plan.written == BATCH
    assert {COMPLETED, KEY} == plan.indexes
    assert plan.scanned == []
    assert plan.read(COMPLETED) <= BATCH


async def test_a_bound_on_how_many_are_kept_reads_as_many_as_are_kept(house: asyncpg.Connection) -> None:
    plan = await ran(house, "too_many", keep=100)
    assert plan.indexes == {COMPLETED}
    assert plan.read(COMPLETED) <= 110


@pytest.mark.parametrize("name", sorted(set(HOT) - {"notify"}))
async def test_nothing_reads_the_million(house: asyncpg.Connection, name: str) -> None:
    plan = await ran(house, name)
    assert plan.scanned == []
    if name == "exhausted":  # looked for among the first thousand of each queue
        most = 12_000
    elif "fetch" in name:  # what is taken is written, and within limits what executes is counted
        most = 45 * BATCH
    else:
        most = 20 * BATCH
    assert plan.buffers < most


# Running


async def outcomes(connection: asyncpg.Connection) -> dict[str, Any]:
    """Verdicts of all that is being executed."""
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM oban_jobs WHERE state = 'executing'")]
    assert len(ids) == BATCH
    return {"ids": ids}


async def ran(connection: asyncpg.Connection, name: str, **values: Any) -> Plan:
    """Run a statement, prepared as a driver does it, look at what it took, and undo it."""
    text, parameters, constants = compiled(HOT[name])
    given = {**constants, **VALUES, "held": [], "since": None, "batch": BATCH, "id": 0, "keep": 10, **values}
    given["at"] = datetime(2100, 1, 1)
    if name in ("elect", "lock_lease", "resign"):
        given["holder"] = "node"
    if name in ("beat", "leave", "rank"):
        given["uuids"] = ["00000000-0000-0000-0000-000000000000"]
    arguments = ", ".join(literal(given[parameter]) for parameter in parameters)
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"PREPARE hot AS {text}")
        executed = f"EXECUTE hot({arguments})" if arguments else "EXECUTE hot"
        [(answer,)] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, WAL, FORMAT JSON) {executed}")
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE hot")
    # An engine's own codec has read it on the connections that come from one.
    top = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]
    wal = None if top["WAL FPI"] else top["WAL Bytes"]
    plan = Plan(top["Shared Hit Blocks"] + top["Shared Read Blocks"], wal)
    walk(top, plan)
    return plan


def walk(node: dict[str, Any], plan: Plan) -> None:
    if node["Node Type"] == "ModifyTable" and _jobs(node):
        plan.written += modified(node)
    elif "Relation Name" in node or "Index Name" in node:
        plan.nodes.append(node)
    for child in node.get("Plans", []):
        walk(child, plan)


def modified(node: dict[str, Any]) -> int:
    """Rows that a node wrote: those that it returns, or without RETURNING those that it was given."""
    return int(node["Actual Rows"] or max((child["Actual Rows"] for child in node.get("Plans", [])), default=0))


def condition(node: dict[str, Any]) -> str:
    return str(node.get("Index Cond", ""))


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join("NULL" if each is None else str(each) for each in value) + "}'"
    return f"'{value}'"


def _jobs(node: dict[str, Any]) -> bool:
    return "oban_jobs" in node.get("Relation Name", "")
