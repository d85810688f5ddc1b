"""A node that indexes pages in chunks: `python -m tests.acceptance.chunk_node URL NODE`."""

from __future__ import annotations

import asyncio
import random
import sys
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Chunk, Job, job
from tests.acceptance import limited_node

QUEUES = {"default": 2}

# Without a key: what happens twice has to show, not to fail.
WRITE = text("INSERT INTO pages (job_id, tenant, call) VALUES (:id, :tenant, :call)")


def rows(jobs: list[Job]) -> list[dict[str, object]]:
    call = uuid4().int >> 68  # forked processes share the seed of `random`
    return [{"id": each.id, "tenant": each.args["tenant"], "call": call} for each in jobs]


@job(chunk=Chunk(10, within=0.1, by="args.tenant"), max_attempts=1000, backoff=0)
async def index(jobs: list[Job], session: AsyncSession) -> None:
    await asyncio.sleep(random.uniform(0, 0.1))
    await session.execute(WRITE, rows(jobs))
    await asyncio.sleep(random.uniform(0, 0.1))


@job(chunk=Chunk(10, within=0.1, by="args.tenant"), max_attempts=1000, backoff=0)
def index_in_thread(jobs: list[Job], session: Session) -> None:
    session.execute(WRITE, rows(jobs))


if __name__ == "__main__":
    asyncio.run(limited_node.work(sys.argv[1], sys.argv[2], QUEUES))
