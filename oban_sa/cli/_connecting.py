"""What all commands share that look into a database: its options, a connection, and words for what fails."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from oban_sa.cli._refusals import refused
from oban_sa.client import Oban
from oban_sa.errors import ObanError
from oban_sa.models import schema_map
from oban_sa.readings import EMBEDDED_FOLDER
from oban_sa.runner.__main__ import refusal
from oban_sa.runner.command import service
from oban_sa.runner.engine import create_engine, dispose
from oban_sa.settings import Settings, load
from oban_sa.sql import overview
from oban_sa.sql.plainly import plainly

T = TypeVar("T")


def database_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a database to a command, which then takes `settings` as its first argument.

    An ObanError that the command raises is shown as a message, with the right exit code.
    """

    @functools.wraps(function)
    def command(config: str | None, **others: Any) -> Any:
        flags = {
            setting: others.pop(setting, None) for setting in ("database_url", "embedded", "schema", "pooler", "name")
        }
        try:
            return function(load(config, flags=flags), **others)
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


def instance_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --name to a command that has `database_options`; it is found in the settings."""
    option = click.option("--name", metavar="NAME", help="The instance whose nodes are meant; Oban. [OBAN_NAME]")
    return option(function)


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json to a command, which then takes `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for machines.")(function)


@asynccontextmanager
async def client(settings: Settings, url: str) -> AsyncGenerator[Oban]:
    """Give a client of tables that are there as this version needs them; what keeps it from that is an ObanError."""
    async with engine(settings, url) as made:
        try:
            oban = Oban(made, schema=settings.schema, name=settings.name)
            await oban.verify()
            yield oban
        except Exception as error:
            if known := refused(error, url):
                raise known from error
            raise


def asked(settings: Settings, ask: Callable[[Oban], Awaitable[T]]) -> T:
    """Return what `ask` answers, given a client of the database in the settings."""
    service.require_database(settings)

    async def answer(url: str) -> T:
        async with client(settings, url) as oban:
            return await ask(oban)

    with service.database(settings) as url:
        return service.run(answer(url))


@asynccontextmanager
async def looking(oban: Oban) -> AsyncGenerator[AsyncSession]:
    """Give a session to look at the tables in."""
    async with AsyncSession(oban.engine) as session:
        await session.execute(plainly())
        yield session


async def clock(session: AsyncSession) -> datetime:
    """The database's clock, so that ages are right on a machine whose clock is not."""
    now: datetime = (await session.execute(overview.now())).scalar_one()
    return now.replace(tzinfo=UTC)


@asynccontextmanager
async def engine(settings: Settings, url: str) -> AsyncGenerator[AsyncEngine]:
    """Give an engine whose tables are those of the schema in the settings."""
    made = create_engine(url, application_name="oban_sa command", connections=2, pooler=settings.pooler)
    try:
        yield made.execution_options(schema_translate_map=schema_map(settings.schema))
    finally:
        await dispose(made)


@asynccontextmanager
async def connection(settings: Settings, url: str) -> AsyncGenerator[AsyncConnection]:
    """Give a connection; what keeps it from being made or used is said in an ObanError."""
    async with engine(settings, url) as made:
        try:
            async with made.connect() as opened:
                yield opened
        except Exception as error:
            if known := refused(error, url):
                raise known from error
            raise
