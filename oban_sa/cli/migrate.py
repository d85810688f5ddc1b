"""`python -m oban_sa migrate`: the tables, without an Alembic project."""

from __future__ import annotations

import sys

import click

from oban_sa.cli._connecting import connection, database_options
from oban_sa.migrations import LATEST, installed, migrate, write_sql
from oban_sa.runner.command import service
from oban_sa.settings import Settings

HELP = """Make the tables that jobs live in, or bring them up to date.

Running it again changes nothing. Tables made by Oban for Elixir or by oban-py are adopted: what is missing is added,
nothing of theirs is altered.

\b
Examples:
  python -m oban_sa migrate --database-url postgresql://localhost/shop
  python -m oban_sa migrate --schema jobs --sql > jobs.sql      # for a reviewer, or a database administrator
  python -m oban_sa migrate --downgrade                         # drop the tables, and all jobs in them

A project that has Alembic does better to let Alembic do it, with one line in a migration of its own:

\b
  from alembic import op
  import oban_sa.migrations
\b
  def upgrade(): op.upgrade_oban()
"""


@click.command("migrate", help=HELP, short_help="Make the tables, or bring them up to date.")
@database_options
@click.option("--sql", is_flag=True, help="Print the statements instead of running them; needs no database.")
@click.option("--downgrade", is_flag=True, help="Drop the tables and all jobs in them.")
@click.option("--yes", is_flag=True, help="Do not ask before dropping the tables.")
def command(settings: Settings, *, sql: bool, downgrade: bool, yes: bool) -> None:
    """Migrate, or print what migrating would run."""
    if sql:
        write_sql(sys.stdout, settings.schema, down=downgrade)
        return
    service.require_database(settings)
    if downgrade and not yes:
        click.confirm(f"Drop the tables in schema {settings.schema!r} and all jobs in them?", abort=True, err=True)
    with service.database(settings) as url:
        before, after = service.run(_migrated(settings, url, down=downgrade))
    if downgrade:
        click.echo(f"Schema {settings.schema!r} has no tables of oban_sa any more.")
    elif before == after:
        click.echo(f"The tables in schema {settings.schema!r} were up to date already (version {after}).")
    else:
        came = f"up from version {before}" if before else "new"
        click.echo(f"The tables in schema {settings.schema!r} are {came}, now at version {LATEST}.")


async def _migrated(settings: Settings, url: str, *, down: bool) -> tuple[int, int]:
    """Migrate, and return the versions before and after."""
    async with connection(settings, url) as opened:
        before = await opened.run_sync(installed, settings.schema)
        await opened.rollback()
        await opened.run_sync(lambda sync: migrate(sync, settings.schema, down=down))
        await opened.commit()
        return before, await opened.run_sync(installed, settings.schema)
