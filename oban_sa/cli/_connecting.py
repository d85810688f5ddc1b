"""What all commands share that look into a database: its options, a connection, and words for what fails."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from oban_sa.errors import ObanError
from oban_sa.models import schema_map
from oban_sa.runner.__main__ import refusal
from oban_sa.runner.engine import create_engine, explained
from oban_sa.settings import Settings, load

F = TypeVar("F", bound=Callable[..., Any])


def database_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --database-url, --schema and --config to a command, which then takes `settings` as its first argument.

    An ObanError that the command raises is shown as a message, with the right exit code.
    """

    @functools.wraps(function)
    def command(database_url: str | None, schema: str | None, config: str | None, **others: Any) -> Any:
        try:
            return function(load(config, flags={"database_url": database_url, "schema": schema}), **others)
        except ObanError as error:
            raise refusal(error) from error

    options = (
        click.option("--database-url", metavar="URL", help="The database. [OBAN_DATABASE_URL, OBAN_DSN]"),
        click.option("--schema", metavar="NAME", help="The schema that holds the tables; public. [OBAN_SCHEMA]"),
        click.option("--config", metavar="FILE", help="A TOML file, instead of oban.toml or pyproject.toml."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@asynccontextmanager
async def engine(settings: Settings, url: str) -> AsyncGenerator[AsyncEngine]:
    """Give an engine whose tables are those of the schema in the settings."""
    made = create_engine(url, application_name="oban_sa command", connections=2, pooler=settings.pooler)
    try:
        yield made.execution_options(schema_translate_map=schema_map(settings.schema))
    finally:
        await made.dispose()


@asynccontextmanager
async def connection(settings: Settings, url: str) -> AsyncGenerator[AsyncConnection]:
    """Give a connection; what keeps it from being made or used is said in an ObanError."""
    async with engine(settings, url) as made:
        try:
            async with made.connect() as opened:
                yield opened
        except Exception as error:
            if known := explained(error, url):
                raise known from error
            raise
