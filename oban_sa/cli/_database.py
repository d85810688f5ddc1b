"""What all commands share that use a database: its options, and a client, session or connection for each command."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.cli._refusals import explain
from oban_sa.client import Oban, verify
from oban_sa.errors import ObanError
from oban_sa.models import schema_map
from oban_sa.runner.database.engine import create_engine, dispose
from oban_sa.service import service
from oban_sa.service.command import refusal
from oban_sa.settings.parsers import EMBEDDED_FOLDER
from oban_sa.settings.settings import Settings, load

T = TypeVar("T")

Command: TypeAlias = Callable[..., None]
"""The function of a command, which takes its options as keywords."""


def database_options(function: Command) -> Command:
    """Add the options that name a database to a command, which then takes `settings` as its first argument.

    An ObanError that the command raises is shown as a message, with the right exit code.
    """

    @functools.wraps(function)
    def command(config: str | None, **others: object) -> None:
        flags = {
            setting: others.pop(setting, None) for setting in ("database_url", "embedded", "schema", "pooler", "name")
        }
        try:
            function(load(config, flags=flags), **others)
        except ObanError as error:
            raise refusal(error) from error

    options = (
        click.option("--database-url", metavar="URL", help="The database. [OBAN_DATABASE_URL, OBAN_DSN]"),
        click.option(
            "--embedded",
            is_flag=False,
            flag_value=EMBEDDED_FOLDER,
            metavar="[FOLDER]",
            help="The private PostgreSQL in this folder, ./.oban by default. [OBAN_EMBEDDED]",
        ),
        click.option("--schema", metavar="NAME", help="The schema that holds the tables; public. [OBAN_SCHEMA]"),
        click.option(
            "--pooler", is_flag=True, default=None, help="The database is behind a pooler in transaction mode."
        ),
        click.option("--config", metavar="FILE", help="A TOML file, instead of oban.toml or pyproject.toml."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def instance_option(function: Command) -> Command:
    """Add --name to a command that has `database_options`; it is found in the settings."""
    option = click.option("--name", metavar="NAME", help="The instance whose nodes are meant; Oban. [OBAN_NAME]")
    return option(function)


def json_option(function: Command) -> Command:
    """Add --json to a command, which then takes `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for machines.")(function)


def run_with_client(settings: Settings, work: Callable[[Oban], Awaitable[T]]) -> T:
    """Connect to the database in the settings, run `work` with a client of it, and return its result."""
    service.require_database(settings)

    async def run(url: str) -> T:
        async with client(settings, url) as oban:
            return await work(oban)

    with service.database(settings) as url:
        return service.run(run(url))


@asynccontextmanager
async def client(settings: Settings, url: str) -> AsyncGenerator[Oban]:
    """Connect a client, once it has seen that the tables are as this version needs them.

    Raises ObanError where they are not, and as `engine` does.
    """
    service.take_keys(settings)
    async with engine(settings, url) as made:
        oban = Oban(made, schema=settings.schema, name=settings.name)
        await verify(made, settings.schema, limits=False)  # commands call none of their functions
        yield oban


@asynccontextmanager
async def engine(
    settings: Settings, url: str, *, application_name: str = "oban_sa command", connections: int = 2
) -> AsyncGenerator[AsyncEngine]:
    """Make an engine that finds the tables in the schema of the settings; it is disposed of at the end.

    What the database refuses inside the block is raised as a RunnerError that says what to do.
    """
    made = create_engine(url, application_name=application_name, connections=connections, pooler=settings.pooler)
    try:
        yield made.execution_options(schema_translate_map=schema_map(settings.schema))
    except Exception as error:
        if known := explain(error, url):
            raise known from error
        raise
    finally:
        await dispose(made)
