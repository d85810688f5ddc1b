"""A node that runs jobs of sequences in a plain queue, and such of partitions beside them.

`python -m tests.acceptance.sequence_node URL NODE`
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Queue, job
from tests.acceptance import limited_node
from tests.support import plain_url

EACH = 2
"""Jobs of one partition of the queue "keyed" that execute at once."""

QUEUES = {"default": 20, "keyed": Queue(10, by="partition", each=EACH, fair={"k1": 3})}

BEGIN = "INSERT INTO booked (key, n, begun_at) VALUES ($1, $2, clock_timestamp()) RETURNING id"
END = "UPDATE booked SET ended_at = clock_timestamp() WHERE id = $1"

pool: asyncpg.Pool[asyncpg.Record]


async def note(key: str, n: int) -> None:
    """Write when the code began and ended, whatever becomes of the job."""
    noted = await pool.fetchval(BEGIN, key, n)
    await asyncio.sleep(0.002)
    await pool.execute(END, noted)


@job(sequence="args.key", max_attempts=20)
async def book(key: str, n: int) -> None:
    await note(key, n)


@job(sequence="args.key", max_attempts=20)
async def book_in_session(session: AsyncSession, key: str, n: int) -> None:
    await session.execute(text("SELECT 1"))
    await note(key, n)


@job(queue="keyed", partition="args.key", max_attempts=20)
async def send(key: str) -> None:
    await asyncio.sleep(0.002)


async def work(url: str, node: str) -> None:
    global pool
    pool = await asyncpg.create_pool(plain_url(url), min_size=1, max_size=4)
    await limited_node.work(url, node, QUEUES)
    await pool.close()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2]))
