"""Run a runner in this process: its database, event loop and signals, and messages for what fails."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.catalog.verify import verify
from oban_sa.errors import InvalidOption, SchemaError, SchemaMissing
from oban_sa.jobs.retention import Prune
from oban_sa.runner.concurrency.processes.pool import processors
from oban_sa.runner.database.engine import connect_arguments, create_engine, dispose
from oban_sa.runner.database.errors import wanting
from oban_sa.runner.database.failures import explained
from oban_sa.runner.database.rights import check_rights
from oban_sa.runner.database.start_steps import taken
from oban_sa.runner.runner import Runner
from oban_sa.runner.sessions.factories import ApplicationSessions
from oban_sa.service import garbage, imports
from oban_sa.service.exit import closed, leave, stuck
from oban_sa.service.run_loop import completed
from oban_sa.service.signals import stoppable
from oban_sa.settings.queues import at_once, limits_of
from oban_sa.settings.settings import Settings, to_keywords
from oban_sa.telemetry import log
from oban_sa.workers import registry
from oban_sa.workers.crontab import resolved
from oban_sa.workers.middleware import Chain

if TYPE_CHECKING:
    from oban_sa.runner.runners import Runners

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")

NO_DATABASE: Final = """no database is given; name one in any of these ways:
  flag         --database-url postgresql://user:password@host:5432/name
  environment  OBAN_DATABASE_URL=postgresql://user:password@host:5432/name
  file         database_url = "postgresql://user:password@host:5432/name"   in oban.toml,
               or below [tool.oban] in pyproject.toml
Or try it without one of your own: --embedded starts a private PostgreSQL in ./.oban"""


def require_database(settings: Settings) -> None:
    """Raise InvalidOption, naming all ways to give a database, where the settings have none."""
    if settings.database_url is None and settings.embedded is None:
        raise InvalidOption(NO_DATABASE)


def require_port(settings: Settings) -> None:
    """Raise InvalidOption where figures are counted and there is no port to serve them on."""
    if settings.prometheus and settings.health_port is None:
        where = settings.origins.get("prometheus", "prometheus")
        raise InvalidOption(f"{where} counts what is served at /metrics, and no port is given; add --health-port 8080")


def check(settings: Settings) -> None:
    """Raise where the database can't be reached, lacks what this version needs, or does not let the role work.

    A private database is not started only to be looked at.
    """
    _named(settings)
    _sessions(settings)
    if settings.database_url is not None:
        run(_checked(settings, settings.database_url))


def prepare(settings: Settings, url: str) -> None:
    """Do once what several runners would each begin with: make the tables of a private database, or check them.

    Raises where a runner with these settings couldn't start.
    """
    _named(settings)
    _sessions(settings)
    run(_checked(settings, url))


def serve(
    settings: Settings, *, started: Callable[[Runner | Runners], None] | None = None, also: Iterable[str] = ()
) -> None:
    """Work until a signal says to stop, or until nothing is left to do where the settings say so.

    `started` is called when work begins. `also` names queues of other processes that have to be idle as well.

    Raises an ObanError with a message for the user of the command if work can't begin.
    """
    with database(settings) as url:
        tell_of_embedded(settings, url)
        run(_serve(settings, url, started, also), jobs=True)
    if stuck.is_set():
        leave()


def tell_of_embedded(settings: Settings, url: str) -> None:
    """Say where a private database is: on stdout and by itself, so that a script can read it."""
    if settings.embedded is not None:
        click.echo(url)
        logger.info("a private PostgreSQL runs in %s; applications reach it at the URL above", settings.embedded)


def run(work: Coroutine[Any, Any, T], *, jobs: bool = False) -> T:
    """Run on a new event loop, uvloop's if it is installed; tasks and threads that do not end are abandoned.

    With `jobs` their code runs there too; a SystemExit that it raises does not end the loop.
    """
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        if not jobs:
            return runner.run(work)
        loop = runner.get_loop()
        return completed(loop, loop.create_task(work))
    finally:
        closed(runner)


@contextmanager
def database(settings: Settings) -> Generator[str]:
    """Yield the URL of the database; with `embedded` a private server runs during the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    if settings.embedded is None:
        raise InvalidOption(NO_DATABASE)
    from oban_sa import embedded  # an extra, needed for a private database only

    with embedded.start(settings.embedded) as running:
        yield running.url


def take_keys(settings: Settings) -> None:
    """Take the keys of encrypted args, where a file is named, for this process and those that it starts."""
    if settings.keys_file is not None:
        from oban_sa.jobs import encryption  # where nothing is encrypted, nothing of it is loaded

        encryption.use_file(settings.keys_file)
        os.environ[encryption.FILE] = str(settings.keys_file.absolute())


def _sessions(settings: Settings) -> Any:
    """Import the application's sessionmaker, where one is named."""
    if settings.sessions is None:
        return None
    sessions = imports.attribute(settings.sessions, origin=settings.origins.get("sessions", "--sessions"))
    ApplicationSessions(sessions)  # refuses what could make no session
    return sessions


def _named(settings: Settings) -> tuple[Prune | None, list[Any]]:
    """Import what settings can only name, and take keys."""
    take_keys(settings)
    origin = settings.origins.get("middleware", "--middleware")
    middleware = [imports.attribute(name, origin=origin) for name in settings.middleware]
    Chain(middleware)  # refuses what could not stand around an attempt
    prune = settings.prune
    if prune is not None and isinstance(prune.archive, str):
        origin = f"{settings.origins.get('prune', 'prune')}.archive"
        prune = replace(prune, archive=imports.attribute(prune.archive, origin=origin))
    return prune, middleware


async def _serve(
    settings: Settings, url: str, started: Callable[[Runner | Runners], None] | None, also: Iterable[str]
) -> None:
    prune, middleware = _named(settings)
    if settings.listen_url is not None:
        connect_arguments(settings.listen_url)  # refuses now what the notifier would try for ever
    engine = create_engine(
        url,
        application_name=f"oban_sa {settings.node}",
        connections=sum(at_once(settings.queues).values()) * len(settings.schemas),
        pooler=settings.pooler,
    )
    stop_following = log.follow_events()
    try:
        async with stoppable() as begin:
            await _migrated(settings, engine)
            if len(settings.schemas) > 1:  # a runner checks its own, and stops at the first that lacks something
                await _verified(settings, engine, url)
            runner = _runner(settings, engine, prune, middleware)
            begin(runner.stop)
            garbage.loaded()
            with _explaining(url, settings):
                async with runner:
                    if not settings.imports and not settings.allow:
                        logger.warning(
                            "no module is named with --import, so no worker is known and every job will fail"
                        )
                    if started is not None:
                        started(runner)
                    await (runner.until_idle(also) if settings.until_idle else runner.wait_stopped())
    finally:
        stop_following()
        await dispose(engine)


def _runner(settings: Settings, engine: AsyncEngine, prune: Prune | None, middleware: list[Any]) -> Runner | Runners:
    """Make a runner for each schema, with queues and limits of its own."""
    count = len(settings.schemas)
    sessions = _sessions(settings)
    pool = settings.process_pool
    if count > 1:
        pool = max((processors() if pool is None else pool) // count, 1)
    keywords = dict(
        to_keywords(settings),
        prune=prune,
        middleware=middleware,
        sessions=sessions,
        # Nothing else uses this engine: all its connections are for attempts.
        connections=sum(at_once(settings.queues).values()) if sessions is None else None,
        process_pool=pool,
    )
    if count == 1:
        return Runner(engine, **dict(keywords, schema=settings.schema))
    from oban_sa.runner.runners import Runners  # and what serves their health; most commands start one runner

    runners = (Runner(engine, **dict(keywords, schema=schema, health_port=None)) for schema in settings.schemas)
    return Runners(*runners, health_port=settings.health_port, health_host=settings.health_host)


async def _checked(settings: Settings, url: str) -> None:
    if settings.listen_url is not None:
        connect_arguments(settings.listen_url)
    engine = create_engine(url, application_name=f"oban_sa {settings.node}", connections=1, pooler=settings.pooler)
    try:
        await _migrated(settings, engine)
        await _verified(settings, engine, url)
        crontab = bool(resolved(settings.crontab, registry, settings.allow))
        for schema in settings.schemas:
            await check_rights(
                engine,
                schema,
                crontab=crontab,
                prune=settings.prune is not None,
                limits=bool(limits_of(settings.queues)),
            )
    finally:
        await dispose(engine)


async def _migrated(settings: Settings, engine: AsyncEngine) -> None:
    """Make the tables of a private database, or bring them up to date."""
    if settings.embedded is None:
        return
    from oban_sa.migrations import migrate  # and Alembic, which nothing else here needs

    for schema in settings.schemas:
        async with engine.connect() as connection:
            await connection.run_sync(migrate, schema)
            await connection.commit()
        logger.info("the tables of the private database are up to date")


async def _verified(settings: Settings, engine: AsyncEngine, url: str) -> None:
    """Raise where any schema lacks tables; all of them are named."""
    lacking: list[SchemaError] = []
    limits = bool(limits_of(settings.queues))
    for schema in settings.schemas:
        try:
            with _explaining(url, settings):
                await taken(partial(verify, engine, schema, limits=limits), pool=engine.pool)
        except SchemaError as error:
            lacking.append(error)
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        raise SchemaMissing("\n\n".join(str(error) for error in lacking))


@contextmanager
def _explaining(url: str, settings: Settings) -> Generator[None]:
    """Replace an error of connecting by one that says what to do."""
    try:
        yield
    except Exception as error:
        if known := explained(error, url, wanted=wanting(len(settings.queues) * len(settings.schemas))):
            raise known from error
        raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
