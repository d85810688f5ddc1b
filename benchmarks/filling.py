"""Jobs that do nothing, put into our table to be drained; and the check that they are done."""

from __future__ import annotations

import asyncpg

from benchmarks.turn import Turn

WORKER = "benchmarks.nothing"
FILL = """
INSERT INTO oban_jobs (worker, queue, priority, args)
SELECT $1, CASE WHEN $3::int = 1 THEN 'bench' ELSE 'bench' || (n % $3::int) END, CASE WHEN $4 THEN n % 10 ELSE 0 END,
       CASE WHEN $5::int = 0 THEN '{}' ELSE jsonb_build_object('text', (
           SELECT left(string_agg(md5(n::text || part), ''), $5::int) FROM generate_series(1, $5::int / 32 + 1) part
       )) END
FROM generate_series(1, $2::int) n
"""
KEYS = "UPDATE oban_jobs SET meta = jsonb_build_object('partition', 'key' || id % $1::int)"
UNIQUE = """
WITH keyed AS (
    UPDATE oban_jobs SET meta = jsonb_build_object('unique', gen_random_uuid()) RETURNING id, meta
)
INSERT INTO oban_sa_uniques (key, job_id) SELECT CAST(meta->>'unique' AS uuid), id FROM keyed
"""
FINISHED = """
INSERT INTO oban_jobs (state, queue, worker, args, attempt, attempted_at, completed_at, attempted_by)
SELECT 'completed', 'bench', 'benchmarks.finished', jsonb_build_object('n', n), 1,
       now() - interval '1 hour', now() - interval '1 hour', '{someone,else}'
FROM generate_series(1, $1::int) n
"""


async def fill(turn: Turn) -> None:
    """Put this turn's jobs into the table."""
    given = turn.options
    connection = await asyncpg.connect(turn.url)
    await connection.execute(
        FILL,
        given.get("worker", WORKER),
        turn.jobs,
        given.get("queues", 1),
        given.get("priorities", False),
        given.get("bytes", 0),
    )
    await connection.close()


async def give_keys(turn: Turn) -> None:
    """Make as many partitions of this turn's jobs as its options say; none where they say nothing."""
    if keys := turn.options.get("keys"):
        await _change(turn, KEYS, keys)


async def give_unique_keys(turn: Turn) -> None:
    """Give each of this turn's jobs a unique key, as if it had been enqueued so."""
    await _change(turn, UNIQUE)


async def _change(turn: Turn, statement: str, *given: object) -> None:
    connection = await asyncpg.connect(turn.url)
    await connection.execute(statement, *given)
    # The rows that these have replaced would be passed over by each fetch.
    await connection.execute("VACUUM FULL oban_jobs")
    await connection.close()


async def check(turn: Turn, *, jobs: int | None = None) -> None:
    """Refuse the figure where not every job was completed by its first attempt."""
    connection = await asyncpg.connect(turn.url)
    rows = await connection.fetch(
        "SELECT state::text, attempt, count(*) FROM oban_jobs WHERE worker <> 'benchmarks.finished' GROUP BY 1, 2"
    )
    await connection.close()
    found = {(row[0], row[1]): row[2] for row in rows}
    turn.check("jobs in the table", found, {("completed", 1): turn.jobs if jobs is None else jobs})


async def completed(turn: Turn) -> int:
    """How many jobs are completed by the table."""
    connection = await asyncpg.connect(turn.url)
    found: int = await connection.fetchval("SELECT count(*) FROM oban_jobs WHERE state = 'completed' AND attempt = 1")
    await connection.close()
    return found


async def check_written(turn: Turn, *, jobs: int | None = None) -> None:
    """Refuse the figure where not every job was written."""
    connection = await asyncpg.connect(turn.url)
    found = await connection.fetchval(
        "SELECT count(DISTINCT args->>'user_id') FROM oban_jobs WHERE state = 'available' AND queue = 'bench'"
    )
    await connection.close()
    turn.check("jobs in the table", found, turn.jobs if jobs is None else jobs)
