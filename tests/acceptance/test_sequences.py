"""No job of a sequence runs before its turn, and no partition has more than it may, while nodes are killed.

`OBAN_TEST_SEQUENCES` is how many sequences of ten jobs there are; few by default, so that every run can afford them.
"""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack
from itertools import count

import asyncpg
import pytest

from tests.acceptance.sequence_node import EACH
from tests.support import Process, eventually, forked, plain_url

KEYS = int(os.environ.get("OBAN_TEST_SEQUENCES", "60"))

WATCH = f"""
CREATE TABLE booked (id bigserial PRIMARY KEY, key text, n int, begun_at timestamptz, ended_at timestamptz);
CREATE TABLE overruns (key text, executing int);
CREATE FUNCTION note_overrun() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO overruns
    SELECT meta ->> 'partition', count(*) FROM oban_jobs WHERE state = 'executing' AND queue = 'keyed'
    GROUP BY 1 HAVING count(*) > {EACH};
    RETURN NULL;
END $$;
CREATE TRIGGER note_overrun AFTER UPDATE ON oban_jobs FOR EACH STATEMENT EXECUTE FUNCTION note_overrun();
"""
"""Notes at the end of each statement, before its locks are gone, whether too many jobs of a partition execute."""

# Priorities and moments that would have it otherwise; the order is that of the ids.
SEQUENCES = """
INSERT INTO oban_jobs (worker, priority, max_attempts, args, meta, scheduled_at)
SELECT 'tests.acceptance.sequence_node.' || (ARRAY['book', 'book_in_session'])[1 + n % 2], (99 - n) % 10, 20,
       jsonb_build_object('key', 'k' || key, 'n', n), jsonb_build_object('sequence', 'k' || key),
       timezone('UTC', now()) - n * interval '1 second'
FROM generate_series(0, 9) AS n, generate_series(1, $1::int) AS key ORDER BY n, key
"""
PARTITIONS = """
INSERT INTO oban_jobs (worker, queue, priority, max_attempts, args, meta)
SELECT 'tests.acceptance.sequence_node.send', 'keyed', n % 10, 20,
       jsonb_build_object('key', 'k' || n % 7), jsonb_build_object('partition', 'k' || n % 7)
FROM generate_series(1, $1::int) AS n
"""

AT_ONCE = """
SELECT key, n, before FROM (
    SELECT key, n, begun_at, lag(n) OVER each AS before, lag(ended_at) OVER each AS ended_at FROM booked
    WINDOW each AS (PARTITION BY key ORDER BY id)
) AS ordered WHERE ended_at > begun_at
"""
OUT_OF_ORDER = """
SELECT key, n, before FROM (
    SELECT key, n, lag(n) OVER (PARTITION BY key ORDER BY id) AS before FROM booked
) AS ordered WHERE n NOT IN (coalesce(before, 0), coalesce(before + 1, 0))
"""
"""A job that was killed runs again, and after it comes the next."""


@pytest.mark.chaos
async def test_no_job_runs_before_its_turn_whatever_becomes_of_nodes(database_url: str) -> None:
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(WATCH)
    await connection.execute(PARTITIONS, 5 * KEYS)
    await connection.execute(SEQUENCES, KEYS)
    chance, numbers = random.Random(7), count()
    living: list[Process] = []
    killed = 0
    left = "SELECT count(*) FROM oban_jobs WHERE state <> 'completed'"
    with ExitStack() as stack:
        ends_at = time.monotonic() + 60 + KEYS
        while await connection.fetchval(left):
            assert time.monotonic() < ends_at, await connection.fetch(
                "SELECT state, count(*) FROM oban_jobs GROUP BY 1"
            )
            while len(living) < 4:
                words = ["-m", "tests.acceptance.sequence_node", database_url, f"node{next(numbers)}"]
                living.append(stack.enter_context(forked(words)))
            await eventually(lambda: all("working" in each.stdout for each in living), 30)
            if killed < 4 + KEYS // 60:
                living.pop(chance.randrange(4)).kill()
                killed += 1
            await eventually_shorter(connection, left, chance.random())
    assert await connection.fetch(AT_ONCE) == []
    assert await connection.fetch(OUT_OF_ORDER) == []
    assert await connection.fetchval("SELECT count(DISTINCT (key, n)) FROM booked") == 10 * KEYS
    assert await connection.fetch("SELECT * FROM overruns") == []
    assert await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
    print(f"{killed} nodes killed; {await connection.fetchval('SELECT count(*) FROM booked')} runs")
    await connection.close()


async def eventually_shorter(connection: asyncpg.Connection, left: str, share: float) -> None:
    """Return once some more jobs are done, or after a second."""
    most = await connection.fetchval(left) - share * KEYS

    async def shorter() -> None:
        assert await connection.fetchval(left) <= max(most, 0)

    try:
        await eventually(shorter, 1.0)
    except AssertionError:
        return
