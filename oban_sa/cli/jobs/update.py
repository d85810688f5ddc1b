"""`jobs update`: change columns of jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from sqlalchemy import select

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import document, say
from oban_sa.cli.jobs.change import require_all
from oban_sa.cli.jobs.fields import Options, as_invalid_option, find_worker, import_option, job_options
from oban_sa.cli.jobs.words import read_ids
from oban_sa.client import Oban
from oban_sa.client.read import read_session
from oban_sa.describe.spans import count
from oban_sa.errors import InvalidOption
from oban_sa.jobs import redaction
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.settings.settings import Settings
from oban_sa.sql import browse
from oban_sa.wire import json_text

HELP = """Change columns of jobs. What is not named stays as it is; --args, --meta and --tag replace all there was.

\b
Examples:
  python -m oban_sa jobs update 123 --queue slow --priority 9
  python -m oban_sa jobs update 123 124 --schedule-in 10m
  python -m oban_sa jobs update 123 --args '{"to": "bob"}' --dry-run     # what would be changed
  python -m oban_sa jobs update 123 --args to=bob --import app.jobs      # and only if its code takes it
  python -m oban_sa jobs update 123 --max-attempts 30 --no-tags

A job that is scheduled for later by this is scheduled, one whose moment is past available. The code of a job that is
executing keeps what it was called with. To have an ended job run again: jobs retry.
"""


@click.command("update", help=HELP, short_help="Change columns of jobs.", no_args_is_help=True)
@click.argument("ids", nargs=-1, required=True, metavar="ID...", callback=read_ids)
@job_options
@import_option
@click.option("--dry-run", is_flag=True, help="Check it and show what would be changed, and change nothing.")
@json_option
@database_options
def command(
    settings: Settings,
    *,
    ids: tuple[int, ...],
    options: Options,
    modules: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change jobs."""
    if not options:
        raise InvalidOption(f"what is to be changed? Write for example: jobs update {ids[0]} --queue slow --priority 9")
    wanted = list(dict.fromkeys(ids))

    async def change(oban: Oban) -> tuple[list[dict[str, Any]], int, int]:
        async with read_session(oban) as session:
            jobs = list(await session.scalars(select(Job).where(browse.by_id(wanted)).order_by(Job.id)))
            there = {job.id for job in jobs}
            require_all(settings, [job_id for job_id in wanted if job_id not in there])
            if modules and "args" in options:
                for worker in dict.fromkeys(job.worker for job in jobs):
                    find_worker(worker, modules).body.check(options["args"])
            executing = sum(job.state == JobState.EXECUTING for job in jobs)
            changes = [{"id": job.id, "changes": _changed(job, options)} for job in jobs]
        return changes, 0 if dry_run else await oban.update_jobs(wanted, changes=options), executing

    with as_invalid_option():
        changes, updated, executing = run_with_client(settings, change)
    if as_json:
        document({"updated": updated, "jobs": changes})
        return
    click.echo(f"{count(len(changes), 'job')} would be changed." if dry_run else f"{count(updated, 'job')} changed.")
    for each in changes:
        for name, (before, after) in each["changes"].items():
            say(f"  {each['id']}  {name:<12} {_text(before)} -> {_text(after)}")
    if executing:
        say(f"Note: {executing:,} of them executing; its code keeps what it was called with", err=True)


def _changed(job: Job, options: Options) -> dict[str, list[Any]]:
    """Change a job in memory alone; return its value before and after, by the column's name, as it may be shown."""
    names = {"scheduled_at" if name == "schedule_in" else name for name in options}
    before, meta = {name: getattr(job, name) for name in names}, job.meta
    job.update(options)
    changed = [name for name in sorted(names) if before[name] != getattr(job, name)]
    return {name: [_shown(name, each, meta) for each in (before[name], getattr(job, name))] for name in changed}


def _shown(name: str, value: object, meta: object) -> object:
    return redaction.args(value, meta) if name == "args" else value


def _text(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else json_text.write(value)
