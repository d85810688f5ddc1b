"""`jobs enqueue`: one more job, from wherever the database can be reached."""

from __future__ import annotations

from typing import Any

import click

from oban_sa import jsontext
from oban_sa.cli._connecting import asked, database_options, json_option, looking
from oban_sa.cli._printing import document, moment, say
from oban_sa.cli.jobs.described import described
from oban_sa.cli.jobs.finding import unknown_workers
from oban_sa.cli.jobs.holding import Options, holding, import_option, known, refusing
from oban_sa.cli.jobs.typed import plain
from oban_sa.client import Oban
from oban_sa.clock import now
from oban_sa.models import Job
from oban_sa.settings import Settings
from oban_sa.states import JobState
from oban_sa.values import to_json

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
@holding
@import_option
@click.option("--dry-run", is_flag=True, help="Check it and show it, and write nothing; needs no database.")
@json_option
@database_options
def command(
    settings: Settings, *, worker: str, options: Options, modules: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Enqueue one job."""
    with refusing():
        job = _made(plain(worker), options, modules)
        # What a session would refuse only when it writes, a dry run refuses too.
        for where in ("args", "meta"):
            to_json(getattr(job, where), where=where)
    unknown: list[str] = []
    if not dry_run:
        with refusing():
            job, unknown = asked(settings, lambda oban: _enqueue(oban, job, ask=not modules))
    if as_json:
        document(described(job))
    else:
        done = "would be enqueued" if dry_run else f"{job.id} enqueued"
        say(f"Job {done}: {job.worker} in the queue {job.queue}, {job.state.value}.")
        if job.state == JobState.SCHEDULED:
            say(f"  scheduled  {moment(job.scheduled_at, now())}")
        say(f"  args       {jsontext.write(job.args)}")
    for hint in unknown:
        say(f"Note: {hint}", err=True)


def _made(worker: str, options: Options, modules: tuple[str, ...]) -> Job:
    given: dict[str, Any] = dict(options)
    args = given.pop("args", {})
    if not modules:
        return Job(worker, args=args, **given)
    definition = known(worker, modules)
    definition.body.check(args)
    return definition.job(args, given)


async def _enqueue(oban: Oban, job: Job, *, ask: bool) -> tuple[Job, list[str]]:
    hints: list[str] = []
    if ask:
        async with looking(oban) as session:
            hints = await unknown_workers(session, (job.worker,))
    return await oban.enqueue(job), hints
