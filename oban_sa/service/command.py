"""The command `python -m oban_sa.runner`: its flags, and what it does with them."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from oban_sa.errors import InvalidOption, ObanError
from oban_sa.service import garbage, imports, logs, service
from oban_sa.service.early_signals import begun
from oban_sa.service.exit import leave_if_stuck
from oban_sa.service.signals import listening
from oban_sa.service.split import shared
from oban_sa.service.usage import Grouped, flags
from oban_sa.settings.option import rows
from oban_sa.settings.settings import Settings, load
from oban_sa.workers.crontab import resolved
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
    params=[*flags(rows(Settings))],
    help=HELP,
    short_help="Work on jobs until told to stop.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option("--config", metavar="FILE", help="A TOML file, instead of oban.toml or pyproject.toml. [OBAN_CONFIG]")
def command(config: str | None, **given: Any) -> None:
    """Read the settings, check what they name, and work."""
    with listening():
        _work(config, given)


def _work(config: str | None, given: dict[str, object]) -> None:
    try:
        settings = load(config, flags=given)
        several = len(settings.schemas) > 1
        logs.configure(settings.log_level, settings.log_format, verbose=settings.imports, schemas=several)
        if settings.dry_run:
            click.echo("\n".join(settings.described()))
        origin = settings.origins.get("imports", "--import")
        imports.load(settings.imports, origin=origin)
        service.require_database(settings)
        service.require_port(settings)
        _tell_of_unserved(settings)
        _tell_of_first_process(settings)
        shares = shared(settings)
        if settings.dry_run:
            _print_plan(settings, shares)
            service.check(settings)
            click.echo("Everything is in place; no job was run.")
        elif settings.processes > 1:
            from oban_sa.service.supervisor import supervise  # one runner has none

            sys.exit(supervise(settings))
        else:
            service.serve(settings)
    except ObanError as error:
        raise refusal(error) from error


class Failed(click.ClickException):
    """A failure as the user of a command sees it: a few lines on stderr."""

    exit_code = 1


class WrongUsage(Failed):
    """The user of a command has to write something differently."""

    exit_code = 2


def refusal(error: ObanError) -> click.ClickException:
    """Return what a command raises to show this error, without a traceback and with the right exit code."""
    return (WrongUsage if isinstance(error, InvalidOption) else Failed)(str(error))


def _tell_of_unserved(settings: Settings) -> None:
    """Warn if this runner serves none of the queues of the workers that it imported."""
    wanted = {definition.options.queue for definition in registry}
    if settings.imports and settings.queues and wanted and wanted.isdisjoint(settings.queues):
        logger.warning(
            "this runner serves %s, but the imported workers put their jobs into %s; those are served with --queues %s",
            ", ".join(settings.queues),
            ", ".join(sorted(wanted)),
            ",".join(f"{queue}:10" for queue in sorted(wanted)),
        )


def _tell_of_first_process(settings: Settings) -> None:
    """Warn if this process is PID 1, which would have to reap the orphans that jobs leave.

    It does not, since waiting for any child would take exit codes from `subprocess` in the code of a job.
    """
    if os.getpid() == 1 and not settings.dry_run:
        logger.warning(
            "this runner is the first process of its container (PID 1), and programs that jobs leave running stay as "
            "zombies once they end; start the container with an init, as `docker run --init` does"
        )


def _print_plan(settings: Settings, shares: list[Settings]) -> None:
    for definition in sorted(registry, key=lambda definition: definition.name):
        click.echo(f"worker {definition.name}  queue {definition.options.queue}")

    for entry in sorted(resolved(settings.crontab, registry, settings.allow), key=lambda entry: entry.worker):
        click.echo(f"cron   {entry.expression}  {entry.timezone}  {entry.worker}")

    for number, share in enumerate(shares if len(shares) > 1 else (), 1):
        queues = ",".join(f"{queue}:{limit}" for queue, limit in share.queues.items())
        click.echo(f"runner {number}  {share.node or 'host.pid'}  {queues}")


def main() -> None:
    """Run the command with this process's arguments."""
    begun()
    garbage.imported()
    try:
        command.main(prog_name="python -m oban_sa.runner")
    finally:
        leave_if_stuck(sys.exc_info()[1])
