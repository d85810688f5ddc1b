"""`jobs enqueue`: write one job, with or without its code at hand."""

from __future__ import annotations

from typing import Any

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import document, say
from oban_sa.cli.jobs.fields import Options, as_invalid_option, find_worker, import_option, job_options
from oban_sa.cli.jobs.words import plain
from oban_sa.client import Oban
from oban_sa.client.description import job_as_json
from oban_sa.client.read import read_session
from oban_sa.client.search import unknown_workers
from oban_sa.describe.spans import moment
from oban_sa.jobs import redaction
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import to_json
from oban_sa.models import Job
from oban_sa.schedule.clock import now
from oban_sa.settings.settings import Settings
from oban_sa.wire import json_text

HELP = """Enqueue a job for WORKER, by the name that its runner knows it under.

\b
Examples:
  python -m oban_sa jobs enqueue app.jobs.SendMail --args '{"to": "ada", "copies": 2}'
  python -m oban_sa jobs enqueue app.jobs.SendMail --args to=ada --args copies=2 --queue mailers
  python -m oban_sa jobs enqueue app.jobs.Report --schedule-in 1h30m --priority 3 --tag monthly
  python -m oban_sa jobs enqueue app.jobs.Report --schedule-at 2026-12-01T06:00+01:00
  python -m oban_sa jobs enqueue SendMail --import app.jobs --args to=ada     # as the code has it
  python -m oban_sa jobs enqueue app.jobs.SendMail --args to=ada --dry-run    # write nothing

The worker's code is not needed. With --import it is asked: a worker may then be given by the last part of its name, its
own queue, tags and other options are taken, and args that its code can't be called with are refused.
"""


@click.command("enqueue", help=HELP, short_help="Enqueue a job.", no_args_is_help=True)
@click.argument("worker")
@job_options
@import_option
@click.option("--dry-run", is_flag=True, help="Check it and show it, and write nothing; needs no database.")
@json_option
@database_options
def command(
    settings: Settings, *, worker: str, options: Options, modules: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Enqueue one job, or show it."""
    with as_invalid_option():
        job = _made(plain(worker), options, modules)
        # A session refuses these only when it writes; a dry run must refuse them too.
        for where in ("args", "meta"):
            to_json(getattr(job, where), where=where)
    unknown: list[str] = []
    if not dry_run:
        with as_invalid_option():
            job, unknown = run_with_client(settings, lambda oban: _enqueue(oban, job, ask=not modules))
    if as_json:
        document(job_as_json(job))
    else:
        done = "would be enqueued" if dry_run else f"{job.id} enqueued"
        say(f"Job {done}: {job.worker} in the queue {job.queue}, {job.state.value}.")
        if job.state == JobState.SCHEDULED:
            say(f"  scheduled  {moment(job.scheduled_at, now())}")
        say(f"  args       {json_text.write(redaction.args(job.args, job.meta))}")
    for hint in unknown:
        say(f"Note: {hint}", err=True)


def _made(worker: str, options: Options, modules: tuple[str, ...]) -> Job:
    given: dict[str, Any] = dict(options)
    args = given.pop("args", {})
    if not modules:
        return Job(worker, args=args, **given)
    definition = find_worker(worker, modules)
    definition.body.check(args)
    return definition.job(args, given)


async def _enqueue(oban: Oban, job: Job, *, ask: bool) -> tuple[Job, list[str]]:
    hints: list[str] = []
    if ask:
        async with read_session(oban) as session:
            hints = await unknown_workers(session, (job.worker,))
    return await oban.enqueue(job), hints
