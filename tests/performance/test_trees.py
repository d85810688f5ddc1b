"""What pruning reads beside a workflow of a million members: as much as it looks at, wherever it stands.

Counts, never times.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

import asyncpg
import psycopg
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa.jobs.retention import Prune
from oban_sa.jobs.states import JobState
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared
from oban_sa.sql.prune import strangers
from oban_sa.sql.trees import choose, delete_members, due
from tests.performance.conftest import BATCH, ROWS
from tests.support import plain_url

TREE = UUID(int=1)
RULE = next(rule for rule in Prune().rules if rule.state == JobState.COMPLETED)
MANY = f"""
INSERT INTO oban_sa_members (job_id, flow_id, name, waiting, settled)
SELECT id, '{TREE}', 'm' || to_char(row_number() OVER (ORDER BY id), 'fm0000000'), 0, 'c'
FROM oban_jobs WHERE state = 'completed'
"""
LATE = datetime(2100, 1, 1)


@pytest.fixture
def members(table: str) -> Iterator[str]:
    """The same table, whose jobs that were completed are members of one tree, which is not over."""
    with psycopg.connect(plain_url(table), autocommit=True) as connection:
        flow = "INSERT INTO oban_sa_flows (id, root_id, path, kind, lane, total) VALUES (%s, %s, %s, 'workflow', 1, %s)"
        connection.execute(flow, [TREE, TREE, [TREE], ROWS])
        connection.execute(MANY)
        analyzed = connection.execute(
            "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'oban_jobs'"
        )
        if (row := analyzed.fetchone()) and row[0]:
            connection.execute("ANALYZE oban_sa_members, oban_sa_flows")
        yield table
        connection.execute("TRUNCATE oban_sa_members, oban_sa_flows")


async def buffers(connection: asyncpg.Connection, prepared: Prepared, **given: object) -> tuple[int, asyncpg.Record]:
    """How many buffers a statement touches, and what it returns; undone."""
    text = prepared.text
    arguments = [given[name] if name in given else text.constants[name] for name in text.names]
    transaction = connection.transaction()
    await transaction.start()
    try:
        [row] = await connection.fetch(text.sql, *arguments)
        await transaction.rollback()
        transaction = connection.transaction()
        await transaction.start()
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text.sql}", *arguments)
    finally:
        await transaction.rollback()
    [found] = json.loads(explained) if isinstance(explained, str) else explained
    return found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"], row


async def test_a_look_for_jobs_that_are_no_members_reads_a_batch(members: str) -> None:
    engine = create_async_engine(members)
    database = Database(engine)
    connection = await database.connect()
    statement = database.prepare(strangers, RULE)
    since: datetime | None = None
    for _ in range(3):
        given: dict[str, object] = {"since": since, "at": LATE, "id": 0, "held": [], "batch": BATCH}
        touched, row = await buffers(connection, statement, **given)
        assert (row["seen"], row["ids"]) == (BATCH, [])
        assert touched < 12 * BATCH
        since = row["last"]
    await connection.close()
    await engine.dispose()


async def test_each_slice_of_a_large_tree_reads_the_same(members: str) -> None:
    engine = create_async_engine(members)
    database = Database(engine)
    connection = await database.connect()
    await connection.execute("UPDATE oban_sa_flows SET completed_at = '2000-01-01', completed = total")
    found, row = await buffers(
        connection, database.prepare(due, "public", JobState.COMPLETED), since=None, at=LATE, held=[], limit=BATCH
    )
    assert row["id"] == TREE
    assert found < 20
    for off in ("jit", "enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"):
        await connection.execute(f"SET {off} = off")
    touched = []
    for name in ("", f"m{ROWS // 2:07}", f"m{ROWS - BATCH:07}"):
        given: dict[str, object] = {
            "roots": [TREE],
            "at": LATE,
            "whole": False,
            "flow": UUID(int=0 if not name else 1),
            "name": name,
        }
        found, row = await buffers(connection, database.prepare(choose, "public"), limit=BATCH, keeping="[]", **given)
        assert len(row["ids"]) == row["seen"] == BATCH
        deleted, _ = await buffers(connection, database.prepare(delete_members, "public"), ids=row["ids"])
        touched.append(found + deleted)
    assert max(touched) < 60 * BATCH
    assert max(touched) < 1.5 * min(touched)
    await connection.close()
    await engine.dispose()
