"""`jobs list`: jobs that pass filters, the newest first."""

from __future__ import annotations

from typing import Final

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import compact, document, say, table
from oban_sa.cli.jobs.filters import filters, queried
from oban_sa.cli.jobs.words import plain_words
from oban_sa.client.description import job_as_json, when
from oban_sa.client.filters import Filters
from oban_sa.client.query import LISTED
from oban_sa.client.search import LATEST, NEWEST, Found, find
from oban_sa.jobs import redaction
from oban_sa.settings.settings import Settings

HELP = f"""Show jobs, the newest first.

\b
Examples:
  python -m oban_sa jobs list                                   # the newest twenty
  python -m oban_sa jobs list 'state:discarded queue:mailers args.order.id:17'
  python -m oban_sa jobs list --state discarded --queue mailers # what was given up, the last due first
  python -m oban_sa jobs list --state available --oldest        # what has waited the longest
  python -m oban_sa jobs list --worker SendMail --args to=ada   # args that hold {{"to": "ada"}}
  python -m oban_sa jobs list --args order.id=17 --since 2h     # the number 17 or the text, due in the last 2 hours
  python -m oban_sa jobs list --tag urgent --meta '{{"batch": 5}}' --json

A QUERY has terms with blanks between, which all have to be true: {LISTED}. Commas mean "or", and a minus before
a term "not". It says the same as the options, and is that of the dashboard.

Without --state, --queue, --since or --until the jobs come by their ids, the last made first; with one of them by when
they are due, the last due first.

It costs the same however many jobs there are. States, queues and moments are found by an index. For --worker, --tag,
--args and --meta the newest {NEWEST:,} jobs are read, or, of certain states, queues or moments, the {LATEST:,} last
due. Where there are more, a note says so, and --window reads further.
"""

_ARGS_WIDTH: Final = 80


@click.command("list", help=HELP, short_help="Show jobs, the newest first.")
@click.argument("words", nargs=-1, metavar="[QUERY]", callback=plain_words)
@filters
@click.option("--oldest", is_flag=True, help="Show the oldest first.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@click.option(
    "--window",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    help="Read so many jobs for --worker, --tag, --args and --meta.",
)
@json_option
@database_options
def command(
    settings: Settings,
    *,
    words: tuple[str, ...],
    filters: Filters,
    oldest: bool,
    limit: int,
    window: int | None,
    as_json: bool,
) -> None:
    """Print jobs that pass the filters."""
    filters = queried(words, filters)
    answer = run_with_client(settings, lambda oban: find(oban, filters, limit=limit, window=window, oldest=oldest))
    if as_json:
        looked_at = {} if answer.looked_at is None else {"looked_at": answer.looked_at}
        document({"jobs": [job_as_json(job) for job in answer.jobs], "more": answer.more, **looked_at})
    elif answer.jobs:
        _print(answer)
    else:
        click.echo("There are no such jobs." if filters.anything else "There are no jobs.")
    if answer.more and not as_json:
        which = "oldest" if oldest else "newest"
        click.echo(
            f"These are the {which} {limit}; there are more. See them with --limit, or fewer with --state.", err=True
        )
    if answer.looked_at is not None:
        click.echo(f"Note: {_looked_at(answer, answer.looked_at, oldest=oldest)}", err=True)
    for hint in answer.hints:
        say(f"Note: {hint}", err=True)


def _looked_at(answer: Found, number: int, *, oldest: bool) -> str:
    which = ("oldest" if oldest else "newest") if answer.by_id else ("first due" if oldest else "last due")
    seen = f"the {which} {number:,} jobs" if answer.by_id else f"the {number:,} of these that are {which}"
    return f"looked at {seen} and no others; --window {number * 10} looks further"


def _print(answer: Found) -> None:
    columns = ("id", "state", "queue", "worker", "attempt", "when", "args")
    rows = [
        (
            job.id,
            job.state.value,
            job.queue,
            job.worker.rpartition(".")[2],
            f"{job.attempt}/{job.max_attempts}",
            when(job, answer.now),
            compact(redaction.args(job.args, job.meta))[:_ARGS_WIDTH],
        )
        for job in answer.jobs
    ]
    table(columns, rows, right=("id", "attempt"), wide="args")
