"""`jobs list`: the newest jobs that pass filters."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import click
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.cli._connecting import asked, database_options, json_option
from oban_sa.cli._printing import compact, document, table
from oban_sa.cli.jobs.choosing import filters
from oban_sa.cli.jobs.described import described, now, when
from oban_sa.client import Oban
from oban_sa.models import Job
from oban_sa.settings import Settings
from oban_sa.sql import overview
from oban_sa.states import JobState

_ARGS_WIDTH: Final = 80


@click.command("list", help="Show jobs, the newest first.")
@filters
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
@database_options
def command(
    settings: Settings,
    *,
    states: tuple[JobState, ...],
    queues: tuple[str, ...],
    workers: tuple[str, ...],
    limit: int,
    as_json: bool,
) -> None:
    """Print the newest jobs that pass the filters."""

    async def ask(oban: Oban) -> tuple[list[Job], datetime]:
        async with AsyncSession(oban.engine) as session:
            conditions = overview.filtered(states=states, queues=queues, workers=workers)
            found = await session.scalars(select(Job).where(*conditions).order_by(Job.id.desc()).limit(limit + 1))
            return list(found), await now(session)

    jobs, at = asked(settings, ask)
    more, jobs = len(jobs) > limit, jobs[:limit]
    if as_json:
        document({"jobs": [described(job) for job in jobs], "more": more})
        return
    if not jobs:
        click.echo("There are no such jobs." if states or queues or workers else "There are no jobs.")
        return
    columns = ("id", "state", "queue", "worker", "attempt", "when", "args")
    rows = [
        (
            job.id,
            job.state.value,
            job.queue,
            job.worker.rpartition(".")[2],
            f"{job.attempt}/{job.max_attempts}",
            when(job, at),
            compact(job.args)[:_ARGS_WIDTH],
        )
        for job in jobs
    ]
    table(columns, rows, right=("id", "attempt"), wide="args")
    if more:
        click.echo(
            f"These are the newest {limit}; there are more. See them with --limit, or fewer with --state.", err=True
        )
