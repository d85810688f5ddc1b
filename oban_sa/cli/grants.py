"""`python -m oban_sa grants`: print the GRANTs that a role of the database needs, and no more."""

from __future__ import annotations

import click

from oban_sa.catalog.names import quoted
from oban_sa.errors import ObanError
from oban_sa.service.command import refusal
from oban_sa.settings.settings import load
from oban_sa.sql.rights import ROLES, grants

HELP = (
    """Print the GRANTs for a role of the database; the owner of the tables runs them, after `migrate`.

\b
"""
    + "\n".join(f"  {name:<12} {role.what}" for name, role in ROLES.items())
    + """

\b
Examples:
  python -m oban_sa grants --role runner --to shop_runner | psql shop
  python -m oban_sa grants --role application --to shop_web --schema jobs | psql shop

Nothing is run and no database is needed. Run them again after a release that brings a migration.
"""
)


@click.command("grants", help=HELP, short_help="Print the GRANTs that a role needs.")
@click.option("--role", type=click.Choice(list(ROLES)), required=True, help="What it is for.")
@click.option("--to", metavar="NAME", required=True, help="The role of the database; it has to exist.")
@click.option("--schema", metavar="NAME", help="The schema that holds the tables; public. [OBAN_SCHEMA]")
@click.option("--config", metavar="FILE", help="A TOML file, instead of oban.toml or pyproject.toml.")
def command(role: str, to: str, schema: str | None, config: str | None) -> None:
    """Print the statements."""
    try:
        named = load(config, flags={"schema": schema}).schema
        quoted(named)
    except ObanError as error:
        raise refusal(error) from error
    click.echo(grants(role, to, schema=named), nl=False)
