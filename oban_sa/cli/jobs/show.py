"""`jobs show`: show every column of one job, what it waits for, its result, and the stack of its code."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import compact, document, pretty, say
from oban_sa.cli.jobs.journal import in_lines, journal_as_json
from oban_sa.cli.jobs.unique import Holder, holder_of
from oban_sa.cli.jobs.words import read_ids
from oban_sa.client import Oban, Wait
from oban_sa.client.description import MOMENTS, job_as_json
from oban_sa.client.journal import Journal
from oban_sa.client.read import database_now, read_session
from oban_sa.describe import printable
from oban_sa.describe.spans import moment
from oban_sa.jobs import redaction
from oban_sa.jobs.states import FINAL, JobState
from oban_sa.models import Job
from oban_sa.runner.cluster.stacks import WITHIN, Said, where
from oban_sa.runner.database.database import Database
from oban_sa.settings.settings import Settings

SUMMARY = "Show everything about one job: what it waits for, args, every error, where its code is by now."
HELP = f"""{SUMMARY}

\b
Examples:
  python -m oban_sa jobs show 123
  python -m oban_sa jobs show 123 --json | jq '.errors[-1].error'
  python -m oban_sa jobs show 123 --json | jq -r '.waits_for[].text'
"""

WAITING = frozenset(JobState) - FINAL - {JobState.EXECUTING}


@click.command("show", help=HELP, short_help=SUMMARY)
@click.argument("job_id", metavar="ID", callback=read_ids)
@json_option
@database_options
def command(settings: Settings, *, job_id: int, as_json: bool) -> None:
    """Print one job."""

    async def read(oban: Oban) -> tuple[Job, datetime, Said | None, list[Wait], Journal, Holder | None]:
        job = await oban.get_job(job_id)
        waits = await oban.waits_for(job.id, dead_after=settings.dead_after) if job.state in WAITING else []
        journal = await oban.journal(job_id)
        async with read_session(oban) as session:
            at = await database_now(session)
            holds = await holder_of(session, job)
        code = None
        if job.state is JobState.EXECUTING:
            database = Database(oban.engine, schema=settings.schema)
            code = await where(database, job.id, listen_url=settings.listen_url)
        return job, at, code, waits, journal, holds

    job, at, code, waits, journal, holds = run_with_client(settings, read)
    if as_json:
        running = {"stack": None if code is None else code.stack} if job.state is JobState.EXECUTING else {}
        waiting = {"waits_for": [each.as_json() for each in waits]}
        unique = {} if holds is None else {"unique": holds.as_json()}
        document({**job_as_json(job), **unique, **waiting, **running, **journal_as_json(journal)})
        return
    say(f"Job {job.id}  {job.worker}")
    lines: list[tuple[str, object]] = [
        ("state", job.state.value),
        ("queue", job.queue),
        ("priority", job.priority),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("tags", ", ".join(job.tags)),
        ("held by", " ".join(job.attempted_by or ())),
        ("unique", "" if holds is None else holds.said(job)),
        *(
            (name.removesuffix("_at"), moment(getattr(job, name), at))
            for name in MOMENTS
            if getattr(job, name) is not None
        ),
        *(("" if number else "waits for", str(each)) for number, each in enumerate(waits)),
    ]
    for name, value in lines:
        if value != "":
            say(f"  {name:<10} {value}")
    for name, value in (("args", redaction.args(job.args, job.meta)), ("meta", job.meta)):
        click.echo(f"\n{name}")
        click.echo(_indented(pretty(value)))
    if job.meta.get("recorded") is True:
        click.echo("\nrecorded")
        click.echo(_indented(_recorded(job)))
    for line in in_lines(journal, at):
        say(line)
    if job.state is JobState.EXECUTING:
        click.echo("\ncode")
        if code is None:
            click.echo(
                f"  no node has said where it is within {WITHIN:g} seconds: the job has just ended, its node is dead, "
                "its loop is blocked, or it is another Oban; behind a pooler OBAN_LISTEN_URL has to lead past that"
            )
        else:
            click.echo(_indented(code.stack or "it has none just now"))
    for known in map(_entry, redaction.errors(job.errors, job.args, job.meta)):
        click.echo()
        say(f"error of attempt {_text(known.get('attempt', '?'))}  {_said_at(known.get('at'), at)}")
        click.echo(_indented(_text(known.get("error", "")).rstrip()))


def _recorded(job: Job) -> str:
    try:
        return pretty(job.recorded())
    except Exception as error:
        return f"can't be decoded: {error}"


def _entry(error: object) -> dict[str, Any]:
    """Return one of a job's errors as an object; a row written by another program may hold any JSON."""
    return error if isinstance(error, dict) else {"error": error}  # pyright: ignore[reportUnknownVariableType]


def _text(value: object) -> str:
    return value if isinstance(value, str) else compact(value)


def _said_at(text: object, now: datetime) -> str:
    try:
        at = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return ""
    return "" if at is None else moment(at if at.tzinfo else at.replace(tzinfo=now.tzinfo), now)


def _indented(text: str) -> str:
    return printable.block(text, indent="  ")
