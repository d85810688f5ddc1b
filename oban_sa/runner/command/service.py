"""The life of a runner's process: a database, an event loop, signals, and words for whatever fails."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.errors import InvalidOption, SchemaError, SchemaMissing
from oban_sa.migrations import migrate
from oban_sa.retention import Prune
from oban_sa.runner import Runner, verify
from oban_sa.runner.command import imports, logs
from oban_sa.runner.command.completing import completed
from oban_sa.runner.command.leaving import closed, leave, stuck
from oban_sa.runner.command.stopping import stoppable
from oban_sa.runner.disconnects import wanting
from oban_sa.runner.engine import connect_arguments, create_engine, dispose, explained
from oban_sa.runner.makers import ApplicationMaker
from oban_sa.runner.processes import processors
from oban_sa.runner.rights import check_rights
from oban_sa.runner.runners import Runners
from oban_sa.runner.scheduler import resolved
from oban_sa.runner.starting import taken
from oban_sa.settings import Settings
from oban_sa.workers import registry
from oban_sa.workers.middleware import Chain

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

    `started` is told when work begins; `also` names queues of others that count where nothing is to be left to do.

    Raises an ObanError with words for whoever started the command where work can't begin.
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
    """Run on an event loop of its own, uvloop's where it is installed; what would not end with the work is left.

    With `jobs` their code runs there too, and can't end the loop.
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
    """Give the URL of the database; a private one, where the settings ask for it, runs as long as the block."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    if settings.embedded is None:
        raise InvalidOption(NO_DATABASE)
    from oban_sa import embedded  # an extra: whoever brings a database does not need it

    with embedded.start(settings.embedded) as running:
        yield running.url


def _sessions(settings: Settings) -> Any:
    """Import the application's sessionmaker, where one is named."""
    if settings.sessions is None:
        return None
    sessions = imports.attribute(settings.sessions, origin=settings.origins.get("sessions", "--sessions"))
    ApplicationMaker(sessions)  # refuses what could make no session
    return sessions


def _named(settings: Settings) -> tuple[Prune | None, list[Any]]:
    """Import what settings can only name."""
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
        connections=sum(settings.queues.values()) * len(settings.schemas),
        pooler=settings.pooler,
    )
    stop_following = logs.follow_events()
    try:
        async with stoppable() as begin:
            await _prepared(settings, engine, url)
            if not settings.imports and not settings.allow:
                logger.warning("no module is named with --import, so no worker is known and every job will fail")
            runner = _runner(settings, engine, prune, middleware)
            begin(runner.stop)
            # What is imported by now stays. Looking for garbage in it again and again costs a tenth of a busy runner.
            gc.collect()
            gc.freeze()
            with _explaining(url, settings):
                async with runner:
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

    def made(schema: str, health_port: int | None, process_pool: int | None) -> Runner:
        return Runner(
            engine,
            queues=settings.queues,
            schema=schema,
            name=settings.name,
            node=settings.node,
            grace=settings.grace,
            allow=settings.allow,
            crontab=settings.crontab,
            listen_url=settings.listen_url,
            heartbeat_every=settings.heartbeat_every,
            dead_after=settings.dead_after,
            abandoned_after=settings.abandoned_after,
            keep_young_after=settings.keep_young_after,
            unknown_after=settings.unknown_after,
            metrics=settings.metrics,
            prune=prune,
            middleware=middleware,
            health_port=health_port,
            health_host=settings.health_host,
            blocked_after=settings.blocked_after,
            poll_every=settings.poll_every,
            stage_every=settings.stage_every,
            process_pool=process_pool,
            recycle_after=settings.recycle_after,
            imports=settings.imports,
            translate=settings.translate,
            sessions=sessions,
            # The engine is nobody else's: all that it may open is for attempts.
            connections=sum(settings.queues.values()) if sessions is None else None,
            idle_in_transaction_after=settings.idle_in_transaction_after,
        )

    if count == 1:
        return made(settings.schema, settings.health_port, pool)
    return Runners(
        *(made(schema, None, pool) for schema in settings.schemas),
        health_port=settings.health_port,
        health_host=settings.health_host,
    )


async def _checked(settings: Settings, url: str) -> None:
    if settings.listen_url is not None:
        connect_arguments(settings.listen_url)
    engine = create_engine(url, application_name=f"oban_sa {settings.node}", connections=1, pooler=settings.pooler)
    try:
        await _prepared(settings, engine, url)
        crontab = bool(resolved(settings.crontab, registry, settings.allow))
        for schema in settings.schemas:
            await check_rights(engine, schema, crontab=crontab, prune=settings.prune is not None)
    finally:
        await dispose(engine)


async def _prepared(settings: Settings, engine: AsyncEngine, url: str) -> None:
    """Make the tables of a private database, and raise where any schema lacks some; all of them are named."""
    if settings.embedded is not None:
        for schema in settings.schemas:
            await _migrate(engine, schema)
    lacking: list[SchemaError] = []
    for schema in settings.schemas:
        try:
            with _explaining(url, settings):
                await taken(partial(verify, engine, schema), pool=engine.pool)
        except SchemaError as error:
            lacking.append(error)
    if len(lacking) == 1:
        raise lacking[0]
    if lacking:
        raise SchemaMissing("\n\n".join(str(error) for error in lacking))


@contextmanager
def _explaining(url: str, settings: Settings) -> Generator[None]:
    """Say in words what keeps a connection from being made."""
    try:
        yield
    except Exception as error:
        if known := explained(error, url, wanted=wanting(len(settings.queues) * len(settings.schemas))):
            raise known from error
        raise


async def _migrate(engine: AsyncEngine, schema: str) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(migrate, schema)
        await connection.commit()
    logger.info("the tables of the private database are up to date")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
