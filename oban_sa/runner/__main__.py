"""`python -m oban_sa.runner`: a process that works on jobs until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from oban_sa.errors import InvalidOption, ObanError
from oban_sa.first import begun
from oban_sa.readings import EMBEDDED_FOLDER, LOG_FORMATS, LOG_LEVELS
from oban_sa.runner.command import imports, logs, service
from oban_sa.runner.command.leaving import leave_if_stuck
from oban_sa.runner.command.shares import shared
from oban_sa.runner.command.stopping import listening
from oban_sa.runner.command.supervisor import supervise
from oban_sa.runner.command.usage import Grouped
from oban_sa.runner.scheduler import resolved
from oban_sa.settings import Settings, load
from oban_sa.workers.registry import registry

logger = logging.getLogger("oban_sa.runner")

HELP = """Work on jobs: fetch them from PostgreSQL, run them, write down what came of them.

\b
Examples:
  # workers defined in myapp/jobs.py; ten jobs at a time from the queue "default"
  python -m oban_sa.runner --database-url postgresql://localhost/shop --import myapp.jobs

\b
  # three queues, each with its own limit
  python -m oban_sa.runner --import myapp.jobs --queues default:10,mailers:20,reports:2

\b
  # nothing installed but this package: a private PostgreSQL in ./.oban
  python -m oban_sa.runner --embedded --import myapp.jobs

\b
  # four processes share the limits: each runs five jobs at a time
  python -m oban_sa.runner --import myapp.jobs --queues default:20 --processes 4

\b
  # workers get sessions of the kind that the application makes itself
  python -m oban_sa.runner --import myapp.jobs --sessions myapp.db:Session

\b
  # two tenants, each with its own tables; ten jobs at a time for each of them
  python -m oban_sa.runner --import myapp.jobs --schema acme --schema globex

\b
  # work off what is there and leave, as in a test or a nightly batch
  python -m oban_sa.runner --import myapp.jobs --until-idle

\b
  # is everything in place? runs no job
  python -m oban_sa.runner --import myapp.jobs --dry-run

Every setting can also stand in the environment (OBAN_QUEUES=default:10) or in a file (oban.toml, or [tool.oban] in
pyproject.toml). A flag wins over the environment, the environment over the file.

\b
  # oban.toml
  database_url = "postgresql://localhost/shop"
  import = ["myapp.jobs"]
  [queues]
  default = 10
  mailers = 20
  [[cron]]
  expression = "0 9 * * MON-FRI"
  timezone = "Europe/Berlin"
  worker = "myapp.jobs.Report"

SIGTERM or Ctrl-C stops it: running jobs get the grace period, then those left are given back, unspent, for another
runner. A second Ctrl-C ends it at once. It exits with 0 when it stopped cleanly, 1 when it failed, 2 for wrong usage.
"""


@click.command(
    "runner",
    cls=Grouped,
    help=HELP,
    short_help="Work on jobs until told to stop.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--database-url", metavar="URL", help="The database; postgresql:// is taken as asyncpg. [OBAN_DATABASE_URL]"
)
@click.option("--dsn", metavar="URL", help="The same as --database-url. [OBAN_DSN]")
@click.option(
    "--embedded",
    is_flag=False,
    flag_value=EMBEDDED_FOLDER,
    metavar="[FOLDER]",
    help="Start a private PostgreSQL in this folder, ./.oban by default. [OBAN_EMBEDDED]",
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="A module that defines workers, such as myapp.jobs; repeatable. [OBAN_IMPORT]",
)
@click.option(
    "--queues", metavar="QUEUES", help="Queues and how many jobs each runs at once; default:10. [OBAN_QUEUES]"
)
@click.option("--processes", metavar="N", help="Run N runners that share the limits of queues; 1. [OBAN_PROCESSES]")
@click.option(
    "--process-pool",
    metavar="N",
    help='Processes for jobs with executor="process", at most; the number of processors. [OBAN_PROCESS_POOL]',
)
@click.option(
    "--recycle-after",
    metavar="N",
    help="Jobs after which such a process is replaced by a new one; never. [OBAN_RECYCLE_AFTER]",
)
@click.option("--until-idle", is_flag=True, default=None, help="Exit once nothing is available, executing or due.")
@click.option(
    "--schema",
    multiple=True,
    metavar="NAME",
    help="The schema that holds the tables; public; repeatable, to work in several. [OBAN_SCHEMA]",
)
@click.option("--prefix", multiple=True, metavar="NAME", help="The same as --schema. [OBAN_PREFIX]")
@click.option(
    "--translate",
    multiple=True,
    metavar="NAME",
    help="A schema of your models that stands for the runner's in the sessions of jobs, or none; repeatable. "
    "[OBAN_TRANSLATE]",
)
@click.option("--node", metavar="NAME", help="Who this runner is, unlike any other; host.pid. [OBAN_NODE]")
@click.option("--name", metavar="NAME", help="The instance, as dashboards know it; Oban. [OBAN_NAME]")
@click.option("--grace", metavar="SECONDS", help="What running jobs get at shutdown; 15. [OBAN_GRACE]")
@click.option("--heartbeat-every", metavar="SECONDS", help="Time between signs of life; 5. [OBAN_HEARTBEAT_EVERY]")
@click.option("--dead-after", metavar="SECONDS", help="Silence after which a node is dead; 30. [OBAN_DEAD_AFTER]")
@click.option(
    "--abandoned-after",
    metavar="SECONDS",
    help="Age at which a running job is rescued whose node is unknown; never. [OBAN_ABANDONED_AFTER]",
)
@click.option(
    "--keep-young-after",
    metavar="SECONDS",
    help="Age that no running job shows to other Obans in its tables, or none; 60. [OBAN_KEEP_YOUNG_AFTER]",
)
@click.option(
    "--unknown-after",
    metavar="SECONDS",
    help="Time after which a job fails whose worker no program knows; 3600. [OBAN_UNKNOWN_AFTER]",
)
@click.option(
    "--poll-every", metavar="SECONDS", help="Time between looks for jobs nobody announced; 1. [OBAN_POLL_EVERY]"
)
@click.option("--stage-every", metavar="SECONDS", help="Longest time between looks for due jobs; 1. [OBAN_STAGE_EVERY]")
@click.option("--metrics", is_flag=True, default=None, help="Tell Oban Web what this node does. [OBAN_METRICS]")
@click.option(
    "--pooler",
    is_flag=True,
    default=None,
    help="The database is behind a pooler in transaction mode: prepare no statements. [OBAN_POOLER]",
)
@click.option("--listen-url", metavar="URL", help="A direct URL for LISTEN, beside a pooler. [OBAN_LISTEN_URL]")
@click.option(
    "--allow",
    multiple=True,
    metavar="MODULE",
    help="Workers below this module are imported when a job names one; repeatable. [OBAN_ALLOW]",
)
@click.option(
    "--prune",
    metavar="AGE",
    help="Age at which jobs that are over are deleted: 7days, or completed:1h,discarded:30days, or never; 1 day, "
    "discarded jobs 7 days. [OBAN_PRUNE]",
)
@click.option(
    "--middleware",
    multiple=True,
    metavar="MODULE:NAME",
    help="Put this function around every attempt; repeatable, the outermost first. [OBAN_MIDDLEWARE]",
)
@click.option("--health-port", metavar="PORT", help="Serve /live and /ready on this port. [OBAN_HEALTH_PORT]")
@click.option("--health-host", metavar="HOST", help="Address to serve them on; 127.0.0.1. [OBAN_HEALTH_HOST]")
@click.option(
    "--blocked-after",
    metavar="SECONDS",
    help="Name the code that blocks the event loop for so long; 1. [OBAN_BLOCKED_AFTER]",
)
@click.option(
    "--sessions",
    metavar="MODULE:NAME",
    help="The application's sessionmaker, which makes the sessions of attempts. [OBAN_SESSIONS]",
)
@click.option(
    "--idle-in-transaction-after",
    metavar="SECONDS",
    help="Name the job whose session waits in an open transaction for so long; 30. [OBAN_IDLE_IN_TRANSACTION_AFTER]",
)
@click.option("--config", metavar="FILE", help="A TOML file, instead of oban.toml or pyproject.toml. [OBAN_CONFIG]")
@click.option("--log-level", metavar="LEVEL", help=f"{', '.join(LOG_LEVELS)}; info. [OBAN_LOG_LEVEL]")
@click.option("--log-format", metavar="FORMAT", help=f"{' or '.join(LOG_FORMATS)}; text. [OBAN_LOG_FORMAT]")
@click.option("--dry-run", is_flag=True, default=None, help="Check settings, imports and tables, print them, and exit.")
def command(config: str | None, **flags: Any) -> None:
    """Read the settings, check what they name, and work."""
    with listening():
        _work(config, flags)


def _work(config: str | None, flags: dict[str, Any]) -> None:
    try:
        settings = load(config, flags=flags)
        several = len(settings.schemas) > 1
        logs.configure(settings.log_level, settings.log_format, verbose=settings.imports, schemas=several)
        if settings.dry_run:
            _print(settings)
        origin = settings.origins.get("imports", "--import")
        imports.load(settings.imports, origin=origin)
        service.require_database(settings)
        _tell_of_unserved(settings)
        _tell_of_first_process(settings)
        shares = shared(settings)
        if settings.dry_run:
            _print_workers()
            _print_crontab(settings)
            _print_shares(shares)
            service.check(settings)
            click.echo("Everything is in place; no job was run.")
        elif settings.processes > 1:
            sys.exit(supervise(settings))
        else:
            service.serve(settings)
    except ObanError as error:
        raise refusal(error) from error


class Failed(click.ClickException):
    """What went wrong, as the user of a command sees it: a few lines on stderr."""

    exit_code = 1


class WrongUsage(Failed):
    """What the user of a command should write differently."""

    exit_code = 2


def refusal(error: ObanError) -> click.ClickException:
    """Return what a command raises to show this error, without a traceback and with the right exit code."""
    return (WrongUsage if isinstance(error, InvalidOption) else Failed)(str(error))


def _tell_of_unserved(settings: Settings) -> None:
    """Warn where this runner looks into no queue that a worker it imported puts jobs into."""
    wanted = {definition.options.queue for definition in registry}
    if settings.imports and settings.queues and wanted and wanted.isdisjoint(settings.queues):
        logger.warning(
            "this runner serves %s, but the imported workers put their jobs into %s; those are served with --queues %s",
            ", ".join(settings.queues),
            ", ".join(sorted(wanted)),
            ",".join(f"{queue}:10" for queue in sorted(wanted)),
        )


def _tell_of_first_process(settings: Settings) -> None:
    """Warn where what jobs leave behind becomes this process's to look after, which it doesn't.

    It can't: to wait for any child at all takes the exit codes away from those who wait for a certain one, such as
    `subprocess` in the code of a job.
    """
    if os.getpid() == 1 and not settings.dry_run:
        logger.warning(
            "this runner is the first process of its container (PID 1), and programs that jobs leave running stay as "
            "zombies once they end; start the container with an init, as `docker run --init` does"
        )


def _print(settings: Settings) -> None:
    for line in settings.described():
        click.echo(line)


def _print_workers() -> None:
    for definition in sorted(registry, key=lambda definition: definition.name):
        click.echo(f"worker {definition.name}  queue {definition.options.queue}")


def _print_crontab(settings: Settings) -> None:
    for entry in sorted(resolved(settings.crontab, registry, settings.allow), key=lambda entry: entry.worker):
        click.echo(f"cron   {entry.expression}  {entry.timezone}  {entry.worker}")


def _print_shares(shares: list[Settings]) -> None:
    for number, share in enumerate(shares, 1):
        if len(shares) > 1:
            queues = ",".join(f"{queue}:{limit}" for queue, limit in share.queues.items())
            click.echo(f"runner {number}  {share.node or 'host.pid'}  {queues}")


def main() -> None:
    """Run the command with this process's arguments."""
    begun()
    try:
        command.main(prog_name="python -m oban_sa.runner")
    finally:
        leave_if_stuck(sys.exc_info()[1])


if __name__ == "__main__":
    main()
