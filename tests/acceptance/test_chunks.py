"""What a chunk's session writes is there once for each of its jobs, and none is lost, while nodes are killed."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from itertools import count

import asyncpg
import pytest

from tests.acceptance.test_sequences import eventually_shorter
from tests.support import Process, eventually, forked, plain_url

JOBS = 600
KILLS = 4

MADE = f"""
CREATE TABLE pages (job_id bigint NOT NULL, tenant int NOT NULL, call bigint NOT NULL);
INSERT INTO oban_jobs (worker, max_attempts, args)
SELECT 'tests.acceptance.chunk_node.' || (ARRAY['index', 'index_in_thread'])[1 + n % 2], 1000,
       jsonb_build_object('tenant', n % 3)
FROM generate_series(1, {JOBS}) AS n
"""
LEFT = "SELECT count(*) FROM oban_jobs WHERE state <> 'completed'"
WRONG = """
SELECT j.id, count(p.job_id) FROM oban_jobs j LEFT JOIN pages p ON p.job_id = j.id
GROUP BY 1 HAVING count(p.job_id) <> 1
"""
MIXED = """
SELECT call, array_agg(DISTINCT tenant), array_agg(DISTINCT job_id) FROM pages
GROUP BY 1 HAVING count(DISTINCT tenant) > 1 OR count(*) > 10
"""


@pytest.mark.chaos
async def test_each_job_of_a_chunk_is_done_once_whatever_becomes_of_nodes(database_url: str) -> None:
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(MADE)
    chance, numbers = random.Random(7), count()
    living: list[Process] = []
    killed = 0
    with ExitStack() as stack:
        ends_at = time.monotonic() + 120
        while await connection.fetchval(LEFT):
            assert time.monotonic() < ends_at, await connection.fetch(
                "SELECT state, count(*) FROM oban_jobs GROUP BY 1"
            )
            while len(living) < 3:
                words = ["-m", "tests.acceptance.chunk_node", database_url, f"node{next(numbers)}"]
                living.append(stack.enter_context(forked(words)))
            await eventually(lambda: all("working" in each.stdout for each in living), 30)
            if killed < KILLS:
                living.pop(chance.randrange(3)).kill()
                killed += 1
            await eventually_shorter(connection, LEFT, chance.random())
    assert killed > 1
    assert await connection.fetch(WRONG) == []
    assert await connection.fetch(MIXED) == []
    [(calls, largest)] = await connection.fetch(
        "SELECT count(*), max(jobs) FROM (SELECT count(*) AS jobs FROM pages GROUP BY call) AS each"
    )
    assert calls < JOBS / 2
    assert largest > 1
    await connection.close()
