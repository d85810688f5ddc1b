"""The command line for people: one file for each noun, with a click command named `command` in it.

Adding a file adds a command. Files whose names start with an underscore are shared parts and no commands.
"""

from __future__ import annotations

import importlib
import pkgutil

import click

from oban_sa.cli._groups import CONTEXT, Suggesting

HELP = """Background jobs that live in your PostgreSQL.

\b
The first five minutes:
  python -m oban_sa migrate --database-url postgresql://localhost/shop   # make the tables
  python -m oban_sa runner --help                                        # and then work on jobs
  python -m oban_sa status                                               # nodes, queues, and what waits
  python -m oban_sa jobs list --state retryable                          # and what went wrong: jobs show 123

The database, the schema and all other settings may also stand in the environment (OBAN_DATABASE_URL, OBAN_SCHEMA) or in
a file: oban.toml, or [tool.oban] in pyproject.toml.
"""

_ALIASES = {"run": "runner"}


class Nouns(Suggesting):
    """A group whose commands are the files of this package, each imported when it is first used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
        return sorted(name.replace("_", "-") for name in names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None where there is none."""
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").command
        return command


group = Nouns(
    "oban-sa",
    help=HELP,
    context_settings=CONTEXT,
    params=[],
)
click.version_option(package_name="oban-sa", message="oban_sa %(version)s")(group)
