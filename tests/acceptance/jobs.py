"""Workers of the acceptance tests; each execution leaves a row in `executions`, or a line in a file."""

from __future__ import annotations

import asyncio
import os
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Job, job, worker


def say(job: Job) -> None:
    """Say on standard output that a job started, which no rollback takes back; in one piece, also from threads."""
    os.write(1, f"started {job.id} {job.attempt}\n".encode())


@worker(queue="default")
class Count:
    """Counts its execution; the table takes each job once."""

    async def process(self, job: Job, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO executions (job_id) VALUES (:id)"), {"id": job.id})


@job()
async def counted(job: Job) -> None:
    say(job)


@job()
async def waits(job: Job, seconds: float) -> None:
    say(job)
    await asyncio.sleep(seconds)


@job()
def waits_in_thread(job: Job, seconds: float) -> None:
    say(job)
    time.sleep(seconds)


@job()
async def waits_in_borrowed_thread(job: Job, seconds: float) -> None:
    say(job)
    await asyncio.to_thread(time.sleep, seconds)


@job()
async def refuses_to_stop(job: Job, seconds: float) -> None:
    say(job)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


@job()
async def blocks(job: Job, seconds: float) -> None:
    say(job)
    time.sleep(seconds)  # noqa: ASYNC251 - a mistake that people make


@job(max_attempts=3)
async def dies(job: Job) -> None:
    say(job)
    os._exit(1)


@job(queue="first")
async def enqueues_elsewhere(session: AsyncSession, seconds: float, queue: str) -> None:
    await asyncio.sleep(seconds)
    counted.options(queue=queue).enqueue(session)
