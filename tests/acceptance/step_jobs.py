"""A job of ten steps, which kills its process once: after one of them, or inside of one."""

from __future__ import annotations

import os
import signal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from oban_sa import current_job, job, step

STEPS = 10

EFFECTS = "CREATE TABLE effects (job_id bigint NOT NULL, step int NOT NULL)"
"""Without a key: what happens twice has to show, not to fail."""

_EFFECT = text("INSERT INTO effects VALUES (:job_id, :step)")


def die() -> None:
    """End this process as a crash does."""
    os.kill(os.getpid(), signal.SIGKILL)


def elsewhere() -> AsyncEngine:
    """Return an engine whose commits are none of the session's."""
    url = os.environ["OBAN_DATABASE_URL"]
    return create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"), poolclass=NullPool)


async def outside(number: int, *, dies: bool) -> int:
    """Have an effect that the job's database knows nothing of, as it were."""
    engine = elsewhere()
    async with engine.begin() as connection:
        await connection.execute(_EFFECT, {"job_id": current_job().id, "step": number})
    await engine.dispose()
    if dies:
        die()
    return number


async def within(session: AsyncSession, number: int, *, dies: bool) -> int:
    """Write in the session."""
    await session.execute(_EFFECT, {"job_id": current_job().id, "step": number})
    if dies:
        await session.flush()
        die()
    return number


@job(max_attempts=5, backoff=lambda _: 1)
async def ten_steps(session: AsyncSession, after: int | None, inside: int | None) -> None:
    """Take the steps: those with odd numbers are committed with the session."""
    first = current_job().attempt == 1
    if first and after == 0:
        die()
    for number in range(1, STEPS + 1):
        dies = first and inside == number
        if number % 2:
            got = await step.commit(session, f"step {number}", within, number, dies=dies)
        else:
            got = await step(f"step {number}", outside, number, dies=dies)
        assert got == number
        if first and after == number:
            die()
