"""What happens after the response: `python -m oban_sa.runner --import examples.flask_app.jobs --queues reports:5`."""

from __future__ import annotations

import time

from sqlalchemy import update
from sqlalchemy.orm import Session

from examples.flask_app.database import sessions
from examples.flask_app.models import Report
from oban_sa import Cancel, Job, Result, job


@job(queue="reports", max_attempts=5, timeout="10 minutes")
def build_report(job: Job, session: Session, report_id: int, pages: int) -> Result:
    """Build a report page by page.

    It is a plain function, so it runs in a thread of the runner and may block. The runner's driver is asynchronous; it
    hands out a `Session` all the same. That is first used when everything is ready, so that no transaction is open
    meanwhile. What it writes is committed together with the job's completion: there is never a report of a job that
    failed, nor half of one.
    """
    written: list[str] = []
    for number in range(1, pages + 1):
        written.append(render(number))
        show_progress(job, 100 * number // pages)

    report = session.get(Report, report_id)
    if report is None:
        return Cancel("nobody wants this report any more")
    report.text = "\n".join(written)
    return None


def render(number: int) -> str:
    """Stand for the work that takes its time."""
    time.sleep(0.3)
    return f"This is page {number}."


def show_progress(job: Job, percent: int) -> None:
    """Let everybody see how far a job is, in a transaction of its own: nobody sees the attempt's before it commits."""
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job.id).values({Job.meta["progress"]: percent}))
