"""`python -m oban_sa bench`: how fast jobs go through this database, from this machine, and what bounds it."""

from __future__ import annotations

import platform
from typing import Final

import click

from oban_sa.cli._database import database_options, json_option
from oban_sa.cli._measure import Measured, measure
from oban_sa.cli._output import document, table
from oban_sa.service import service
from oban_sa.settings.settings import Settings

HELP = """Measure how fast jobs go through this database, from this machine and in one process.

\b
  drain               a runner fetches, runs and completes all of them; the jobs do nothing
  insert by COPY      Oban.enqueue_many, in one transaction
  insert in sessions  enqueue_many(session, ...), in transactions of 1,000 jobs
  commit to start     milliseconds from asking for a job's commit until its code runs, on an idle runner

Beside each rate stands how busy this process kept one CPU. Near 100 % Python is the bound, and more processes do more;
far below it the process waits for the database, whose round trip and commit are shown too.

It works in a schema of its own, which is dropped at the end; nothing else in the database is touched. It takes less
than a minute, and keeps the database as busy as it can meanwhile: where it serves others, choose the hour. Run it
where your runners run, since most of what is measured is the way to the database and its disk.

\b
Examples:
  python -m oban_sa bench
  python -m oban_sa bench --jobs 100000 --limit 200 --json
"""

BUSY: Final = 0.8
"""Share of one CPU from which Python, and not the database, is called the bound."""


@click.command("bench", help=HELP, short_help="Measure how fast jobs go through this database.")
@click.option("--jobs", type=click.IntRange(100, 10_000_000), default=10_000, show_default=True, help="How many.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many the runner runs at once."
)
@json_option
@database_options
def command(settings: Settings, *, jobs: int, limit: int, as_json: bool) -> None:
    """Measure, and print what was found."""

    def say(what: str) -> None:
        if not as_json:
            click.echo(f"  {what} ...", err=True)

    service.require_database(settings)
    with service.database(settings) as url:
        found = service.run(measure(settings, url, jobs, limit, say=say))
    starts = {f"p{part}": _percentile(found.starts, part) * 1000 for part in (50, 95, 99)}
    if as_json:
        document(
            {
                "server": found.server,
                "python": platform.python_version(),
                "jobs": jobs,
                "limit": limit,
                "round_trip_ms": round(found.round_trip * 1000, 3),
                "commit_ms": round(found.commit * 1000, 3),
                "rates": {rate.name: round(rate.per_second, 1) for rate in found.rates},
                "cpu": {rate.name: round(rate.cpu, 3) for rate in found.rates},
                "commit_to_start_ms": {name: round(value, 2) for name, value in starts.items()},
            }
        )
        return
    click.echo(f"PostgreSQL {found.server}, Python {platform.python_version()}, one process, jobs that do nothing\n")
    rows = [
        (rate.name.replace("_", " "), f"{rate.per_second:,.0f} jobs/s", f"{rate.cpu:.0%}", f"{rate.jobs:,}")
        for rate in found.rates
    ]
    table(("measured", "rate", "cpu", "jobs"), rows, right=("rate", "cpu", "jobs"))
    shown = ", ".join(f"{name} {value:.1f} ms" for name, value in starts.items())
    click.echo(f"\nFrom commit to start, on an idle runner: {shown}  ({len(found.starts)} jobs, one after another)")
    for line in _explain(found, limit):
        click.echo(f"\n{line}")


def _explain(found: Measured, limit: int) -> list[str]:
    """Say what bounds the rates."""
    trip, commit, drain = found.round_trip * 1000, found.commit * 1000, found.rates[0]
    possible = limit * 100
    bound = "which one process can do" if possible < drain.per_second else f"more than its {drain.per_second:,.0f}"
    verdict = (
        "Python is the bound: more processes (runner --processes) drain more"
        if drain.cpu >= BUSY
        else "the bound is the database, which it waited for in the rest, unless other programs had the CPU then"
    )
    first = (
        f"A round trip to the database takes {trip:.2f} ms, and a commit {max(0.0, commit - trip):.2f} ms more. A "
        "transaction takes several of the first and one of the second; jobs that are written together share them."
    )
    second = (
        f"A job that does nothing takes {1e6 / drain.per_second:,.0f} us. That is what a job costs beside its own "
        f"work: with 10 ms of work each, {limit} at once are {possible:,} jobs a second, {bound}."
    )
    third = f"While it drained, this process kept a CPU busy {drain.cpu:.0%} of the time: {verdict}."
    lines = [first, second, third]
    if trip > 2:
        lines.append(
            f"The database is far away. With {limit} jobs at once, each batch waits {trip:.0f} ms for its answer: a "
            "higher limit makes batches larger, and a runner in the database's own network waits less."
        )
    if commit - trip > 5:
        lines.append(
            "Commits wait long for the disk. Jobs that are written in the transaction of your own data cost no commit "
            "of their own."
        )
    return lines


def _percentile(ordered: list[float], part: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * part // 100)]
