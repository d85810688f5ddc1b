"""`python -m oban_sa migrate`: make, mend or drop the tables without an Alembic project."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import click
from sqlalchemy import Connection

from oban_sa.catalog import inspection
from oban_sa.cli._database import database_options, engine
from oban_sa.migrations import migrate, write_sql
from oban_sa.service import service
from oban_sa.settings.settings import Settings

HELP = """Make the tables that jobs live in, or bring them up to date.

Running it again makes what is missing, and changes nothing else. Tables made by Oban for Elixir or by oban-py are
adopted: what is missing is added, nothing of theirs is altered. --downgrade drops what oban_sa made and nothing else.

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
@click.option(
    "--oban-web/--no-oban-web",
    default=None,
    help="Make the view of workflows that Oban Web reads, and an index for it; or drop them.",
)
@click.option(
    "--flow-trigger/--no-flow-trigger",
    default=None,
    help="Make a trigger that notes at once what other members of the family did of a workflow; or drop it.",
)
@click.option("--yes", is_flag=True, help="Do not ask before dropping the tables.")
def command(
    settings: Settings, *, sql: bool, downgrade: bool, yes: bool, oban_web: bool | None, flow_trigger: bool | None
) -> None:
    """Migrate, or print what migrating would run."""
    extras = {"oban_web": oban_web, "flow_trigger": flow_trigger}
    if downgrade and any(extras.values()):
        raise click.UsageError("--downgrade drops these too; leave --oban-web and --flow-trigger away")
    if sql:
        write_sql(sys.stdout, settings.schema, down=downgrade, **extras)
        return
    service.require_database(settings)
    if downgrade and not yes:
        click.confirm(f"Drop the tables in schema {settings.schema!r} and all jobs in them?", abort=True, err=True)
    with service.database(settings) as url:
        before, after = service.run(_migrated(settings, url, down=downgrade, extras=extras))
    click.echo(_left(settings.schema, after) if downgrade else _made(settings.schema, before, after))
    for name, wanted in extras.items():
        if wanted is not None:
            click.echo(f"{_EXTRAS[name]} {'made' if wanted else 'dropped'}.")


_EXTRAS: Final = {
    "oban_web": "The view oban_workflows and its index are",
    "flow_trigger": "The trigger on oban_jobs is",
}


@dataclass(frozen=True, slots=True)
class _Found:
    """What a schema has: its version, which of the tables that oban_sa uses, and what it lacks, a sentence each."""

    version: int
    tables: list[str]
    lacking: list[str]


def _left(schema: str, after: _Found) -> str:
    if after.tables:
        return (
            f"Schema {schema!r} has no tables of oban_sa's making any more. "
            f"What it did not make stays: {', '.join(after.tables)}."
        )
    return f"Schema {schema!r} has no tables of oban_sa any more."


def _made(schema: str, before: _Found, after: _Found) -> str:
    if before.version == after.version:
        if not before.lacking:
            return f"The tables in schema {schema!r} were up to date already (version {after.version})."
        listed = "".join(f"\n- {sentence}" for sentence in before.lacking)
        return f"The tables in schema {schema!r} are mended, at version {after.version}. Before:{listed}"
    if before.version:
        return f"The tables in schema {schema!r} are up from version {before.version}, now at version {after.version}."
    if before.tables:
        return (
            f"In schema {schema!r} there were tables already, and they are adopted as they are: "
            f"{', '.join(before.tables)}. What was missing is added, now at version {after.version}."
        )
    return f"The tables in schema {schema!r} are new, now at version {after.version}."


async def _migrated(
    settings: Settings, url: str, *, down: bool, extras: Mapping[str, bool | None]
) -> tuple[_Found, _Found]:
    """Migrate; return what the schema had before and has after."""

    def found(sync: Connection) -> _Found:
        has = inspection.inspect(sync, settings.schema)
        return _Found(has.version, inspection.present(has), inspection.unfinished(sync, settings.schema))

    async with engine(settings, url) as made, made.connect() as opened:
        before = await opened.run_sync(found)
        await opened.rollback()
        await opened.run_sync(lambda sync: migrate(sync, settings.schema, down=down, **extras))
        await opened.commit()
        return before, await opened.run_sync(found)
