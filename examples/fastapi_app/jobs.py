"""What happens after the response."""

from __future__ import annotations

import asyncio

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from examples.fastapi_app.database import sessions
from examples.fastapi_app.models import Report
from oban_sa import Cancel, Job, Result, job


@job(queue="reports", max_attempts=5, timeout="10 minutes")
async def build_report(job: Job, session: AsyncSession, report_id: int, pages: int) -> Result:
    """Build a report page by page.

    The session is first used when everything is ready, so that no transaction is open meanwhile. What it writes is
    committed together with the job's completion: there is never a report of a job that failed, nor half of one.
    """
    written: list[str] = []
    for number in range(1, pages + 1):
        written.append(await render(number))
        await show_progress(job, 100 * number // pages)

    report = await session.get(Report, report_id)
    if report is None:
        return Cancel("nobody wants this report any more")
    report.text = "\n".join(written)
    return None


async def render(number: int) -> str:
    """Stand for the work that takes its time."""
    await asyncio.sleep(0.3)
    return f"This is page {number}."


async def show_progress(job: Job, percent: int) -> None:
    """Let everybody see how far a job is, in a transaction of its own: nobody sees the attempt's before it commits."""
    async with sessions.begin() as session:
        await session.execute(update(Job).where(Job.id == job.id).values({Job.meta["progress"]: percent}))
