"""What the hot statements cost, on tables from empty to those with many finished jobs, with statistics and without."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.engine import create_engine
from oban_sa.runner.database.server_settings import ENOUGH, PLANNING
from oban_sa.sql.fetch import BEGINNING
from tests.databases import Databases
from tests.sql.compiling import STATEMENTS, compiled
from tests.support import plain_url

STATE = "oban_jobs_state_queue_priority_scheduled_at_id_index"
STAGING = "oban_jobs_staging_index"
KEY = "oban_jobs_pkey"

FINISHED = 200_000
HOLDERS = "00000000-0000-4000-8000-00000000000"
"""Of the uuids of the producers that hold jobs, all but the last digit."""

REGISTER = f"""
INSERT INTO oban_producers (uuid, name, node, queue, meta, started_at, updated_at)
SELECT CAST('{HOLDERS}' || n AS uuid), 'Oban', 'node', 'queue1', '{{}}', timezone('UTC', now()), timezone('UTC', now())
FROM generate_series(0, 6) AS n
"""
FILL = """
INSERT INTO oban_jobs (worker, state, queue, attempt, attempted_by, scheduled_at, completed_at)
SELECT 'worker', CAST({state} AS oban_job_state), 'queue' || n % 5, 1,
       ARRAY['node', '00000000-0000-4000-8000-00000000000' || n % 7],
       timezone('UTC', now()) + {after} * interval '1 second', timezone('UTC', now())
FROM generate_series(1, {count}) AS n
"""
TABLES: dict[str, list[str]] = {
    "empty": [],
    "fresh": [FILL.format(state="'available'", after="-n", count=2000)],
    "full": [
        FILL.format(state="'completed'", after="-n", count=FINISHED),
        FILL.format(state="'scheduled'", after="(3600 + n)", count=2000),
        FILL.format(state="'available'", after="-n", count=2000),
        FILL.format(state="'executing'", after="-n", count=100),
    ],
    # What the planner knows is from when there was nothing but finished jobs.
    "misled": [
        FILL.format(state="'completed'", after="-n", count=20_000),
        "ANALYZE oban_jobs",
        FILL.format(state="'available'", after="-n", count=20_000),
        FILL.format(state="'executing'", after="-n", count=100),
    ],
}
LOOKS = {"exhausted": 30_000}
"""Buffers that a statement may read where that is more than for others: this one looks at a thousand jobs a queue."""

VALUES: dict[str, Any] = {
    "queue": "queue1",
    "table": "oban_jobs",
    "lately": 15.0,
    "demand": 50,
    "from_priority": BEGINNING.priority,
    "from_scheduled_at": BEGINNING.scheduled_at,
    "from_id": BEGINNING.id,
    "holder": ["node", f"{HOLDERS}1"],
    "producer": f"{HOLDERS}1",
    "ids": list(range(1, 51)),
    "attempts": [1] * 50,
    "states": ["completed"] * 50,
    "delays": [None] * 50,
    "errors": [None] * 50,
    "metas": [None] * 50,
    "refunds": [False] * 50,
    "attempted_ats": [None] * 50,
    "fences": [1] * 50,
    "fence_attempts": [1],
    "fence_moments": [None],
    "job_id": 7,
    "said_attempt": 1,
    "said_state": "completed",
    "said_delay": None,
    "said_error": None,
    "said_meta": None,
    "said_refund": False,
    "said_attempted_at": None,
    "attempted_at": None,
    "dead_after": 30.0,
    "known": [1, 2, 3],
    "limit": 5000,
    "channel": "c",
    "queues": ["queue1"],
    "uuids": [f"{HOLDERS}1"],
    "texts": ["dead"],
    "after": 100.0,
    "text": "gone",
    "lease": "lease",
    "held_since": datetime(2026, 1, 1),
    "lasts": 10.0,
    "uuid": UUID(int=0),
    "name": "Oban",
    "node": "node",
    "meta": "{}",
    "global_limit": 200,
    "rate_name": "queue:queue1",
    "rate_n": 1000,
    "rate_per": 1.0,
    "rate_algorithm": "sliding",
    "rate_burst": None,
    "rate_weight": ["args", "points"],
}


@pytest.fixture(scope="module", params=["empty", "fresh", "full", "misled", "analyzed"])
def table(request, databases: Databases) -> Iterator[str]:
    """The URL of a database whose table is in this condition."""
    with databases.fresh() as url:
        with psycopg.connect(plain_url(url), autocommit=True) as connection:
            # Nobody but this test decides what the planner knows.
            connection.execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
            connection.execute(REGISTER)
            for statement in TABLES["full" if request.param == "analyzed" else request.param]:
                connection.execute(statement)
            if request.param == "analyzed":
                connection.execute("ANALYZE oban_jobs")
        yield url


@pytest.fixture
async def connection(table: str) -> AsyncIterator[asyncpg.Connection]:
    made = await asyncpg.connect(plain_url(table))
    await made.execute(PLANNING)
    yield made
    await made.close()


async def plan(connection: asyncpg.Connection, name: str, **values: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's plan that read a table, with what they really read."""
    text, parameters, constants = compiled(STATEMENTS[name])
    given = {**constants, **VALUES, **values}
    if name in ("elect", "lock_lease", "resign"):
        given["holder"] = "node"
    if name in ("beat", "leave", "rank"):
        given["uuids"] = [uuid4()]
    transaction = connection.transaction()
    await transaction.start()
    try:
        [(answer,)] = await connection.fetch(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}", *(given[parameter] for parameter in parameters)
        )
    finally:
        await transaction.rollback()
    found: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        if "Relation Name" in node or "Index Name" in node:
            found.append(node)
        for child in node.get("Plans", []):
            walk(child)

    walk(json.loads(answer)[0]["Plan"])
    return found


def _literal(value: Any) -> str:
    if isinstance(value, list):
        return "'{" + ",".join("NULL" if item is None else str(item) for item in value) + "}'"
    return f"'{value}'"


def indexes(nodes: list[dict[str, Any]]) -> set[str]:
    return {node["Index Name"] for node in nodes if "Index Name" in node}


def scanned(nodes: list[dict[str, Any]]) -> list[str]:
    return [
        node["Relation Name"]
        for node in nodes
        if node["Node Type"] == "Seq Scan" and "oban_jobs" in node["Relation Name"]
    ]


def buffers(nodes: list[dict[str, Any]]) -> int:
    return sum(
        node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
        for node in nodes
        if node["Node Type"] != "ModifyTable"
    )


FETCHES = ("fetch", "ack_and_fetch", "complete_and_fetch", "fetch_within_limits", "complete_and_fetch_within_limits")


@pytest.mark.parametrize("name", [*FETCHES, "fetch_by_weight"])
async def test_a_fetch_walks_the_index_in_the_order_of_the_queue(connection: asyncpg.Connection, name: str) -> None:
    nodes = await plan(connection, name, ids=[1], **{key: VALUES[key][:1] for key in VALUES if key in ARRAYS})
    assert STATE in indexes(nodes)
    assert scanned(nodes) == []
    [picked] = [node for node in nodes if node.get("Index Name") == STATE]
    assert "available" in picked["Index Cond"]
    assert "queue1" in picked["Index Cond"]
    # A sort would read the whole backlog for each fetch.
    assert picked["Actual Rows"] <= 50


ARRAYS = ("attempts", "states", "delays", "errors", "metas", "refunds", "attempted_ats", "fences")


@pytest.mark.parametrize("name", ["ack", "ack_and_fetch", "complete_and_fetch", "ack_one", "held"])
async def test_an_ack_finds_its_rows_by_primary_key(connection: asyncpg.Connection, name: str) -> None:
    nodes = await plan(connection, name, queue="none")
    assert KEY in indexes(nodes)
    assert scanned(nodes) == []
    by_state = [node for node in nodes if node.get("Index Name") == STATE and "executing" in node.get("Index Cond", "")]
    assert by_state == []


async def test_staging_reads_what_is_due_and_one_row_ahead(connection: asyncpg.Connection) -> None:
    nodes = await plan(connection, "stage")
    assert STAGING in indexes(nodes)
    assert STATE not in indexes(nodes)
    assert scanned(nodes) == []
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes if node.get("Index Name") == STAGING) <= 1


@pytest.mark.parametrize("name", ["unheard", "restore", "rescue", "abandoned"])
async def test_looking_for_the_lost_reads_what_is_executing_and_no_more(
    connection: asyncpg.Connection, name: str
) -> None:
    nodes = await plan(connection, name)
    assert scanned(nodes) == []
    read = [node for node in nodes if node.get("Index Name") == STATE]
    assert read
    assert all("executing" in node["Index Cond"] for node in read)
    assert sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in read) <= 100


async def test_whether_there_is_more_to_do_takes_a_few_looks(connection: asyncpg.Connection) -> None:
    nodes = await plan(connection, "unfinished")
    assert scanned(nodes) == []
    assert indexes(nodes) <= {STATE, STAGING}


@pytest.mark.parametrize("name", sorted(set(STATEMENTS) - {"notify"}))
async def test_no_statement_of_a_runner_reads_the_finished_jobs(connection: asyncpg.Connection, name: str) -> None:
    nodes = await plan(connection, name)
    assert scanned(nodes) == []
    assert buffers(nodes) < LOOKS.get(name, 2000)


PRODUCERS = ("ack", "fetch", "ack_and_fetch", "complete_and_fetch", "held", "unheard")


GROWING = """
INSERT INTO oban_jobs (state, queue, worker, attempt, attempted_by)
SELECT (CASE WHEN n % 2 = 0 THEN 'available' ELSE 'completed' END)::oban_job_state, 'queue1', 'worker', n % 2,
       '{{someone,else}}' FROM generate_series(1, {count}) n
"""


@pytest.fixture
async def line(engine: AsyncEngine) -> AsyncIterator[Line]:
    """A producer's line to a table about which the planner learns nothing by itself."""
    made = Database(engine).line(keeps_plans=True)
    await made.plan_anew()
    await raw(made).execute("ALTER TABLE oban_jobs SET (autovacuum_enabled = off)")
    yield made
    await made.close()


def raw(line: Line) -> asyncpg.Connection:
    assert line._connection is not None
    return line._connection


async def kept(line: Line) -> bool:
    """Whether the line keeps the plans of its statements."""
    mode: str = await raw(line).fetchval("SHOW plan_cache_mode")
    assert mode in ("force_generic_plan", "force_custom_plan")
    return mode == "force_generic_plan"


@pytest.mark.parametrize("name", PRODUCERS)
async def test_a_plan_that_is_kept_reads_little_once_the_table_is_full(line: Line, name: str) -> None:
    """A producer's statements are planned once a second, and a table may fill within less."""
    connection = raw(line)
    await connection.execute(GROWING.format(count=10_000))
    await line.plan_anew()
    assert await kept(line)
    text, parameters, constants = compiled(STATEMENTS[name])
    await connection.execute(f"PREPARE hot AS {text}")
    given = ", ".join(_literal({**constants, **VALUES}[parameter]) for parameter in parameters)
    await connection.execute(f"EXECUTE hot({given})")
    await connection.execute(GROWING.format(count=60_000))
    [(answer,)] = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE hot({given})")
    [(generic, custom)] = await connection.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'hot'"
    )
    assert (generic, custom) == (2, 0)
    found = answer[0]["Plan"]  # the engine's own codec has read it
    assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 2000
    assert "Nested Loop" not in str(found)


async def test_no_plan_is_kept_while_the_table_is_empty(line: Line) -> None:
    assert not await kept(line)
    await raw(line).execute("VACUUM ANALYZE oban_jobs")
    await line.plan_anew()
    assert not await kept(line)


async def test_no_plan_is_kept_where_all_rows_are_gone(line: Line) -> None:
    """The file stays as large as it was, and the planner believes what the vacuum said: no rows."""
    await raw(line).execute(GROWING.format(count=20_000))
    await raw(line).execute("DELETE FROM oban_jobs")
    await raw(line).execute("VACUUM (ANALYZE, TRUNCATE off) oban_jobs")
    assert await raw(line).fetchval("SELECT pg_relation_size('oban_jobs')") >= ENOUGH
    await line.plan_anew()
    assert not await kept(line)


async def test_forgotten_plans_are_made_anew(line: Line) -> None:
    connection = raw(line)
    await connection.execute(GROWING.format(count=20_000))
    await line.plan_anew()
    await connection.execute("PREPARE hot AS SELECT id FROM oban_jobs WHERE id = $1")
    await connection.execute("EXECUTE hot(1)")
    await connection.execute("SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_seqscan = on")
    [first, *_] = await connection.fetch("EXPLAIN EXECUTE hot(1)")
    assert KEY in first[0]
    await line.plan_anew()
    [first, *_] = await connection.fetch("EXPLAIN EXECUTE hot(1)")
    assert KEY not in first[0]


async def test_no_plan_made_for_an_empty_table_outlives_it(engine: AsyncEngine) -> None:
    """PostgreSQL keeps a plan after a few executions; one from when there was nothing to read would read everything."""
    database = Database(engine)
    line, other = database.line(), database.line()
    for name in (*PRODUCERS, "stage"):
        prepared = database.prepare(STATEMENTS[name])
        for _ in range(12):
            await line.fetch(prepared, **{key: VALUES[key] for key in prepared.text.names if key in VALUES})
    assert line._connection is not None
    kept = await line._connection.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%oban_jobs%' "
        "AND statement NOT LIKE '%pg_prepared_statements%'"
    )
    assert [tuple(row) for row in kept] == [(0, 12)] * 7
    for each in (line, other):
        await each.close()


async def test_where_another_process_answers_than_a_pooler_told_nothing_is_set(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncpg.Connection, "get_server_pid", lambda self: 1)
    engine = create_engine(database_url)
    connection = await Database(engine).connect()
    assert await connection.fetchval("SHOW plan_cache_mode") == "auto"
    await connection.close()
    await engine.dispose()
