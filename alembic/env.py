"""The environment of `alembic upgrade head` in this repository; `alembic.ini` says what it reads."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from logging.config import fileConfig

from alembic import context
from sqlalchemy import URL, Connection, create_engine, make_url, pool
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa.migrations import ddl

config = context.config
if config.config_file_name is not None and config.attributes.get("configure_logger", True):
    fileConfig(config.config_file_name, disable_existing_loggers=False)

schema = config.attributes.get("oban_schema") or os.environ.get("OBAN_SCHEMA") or "public"
config.attributes["oban_schema"] = schema


def database_url() -> URL:
    """Return the URL that the environment or alembic.ini names, with a driver that is installed with oban_sa."""
    named = (
        os.environ.get("OBAN_DATABASE_URL")
        or os.environ.get("DATABASE_URL")
        or config.get_main_option("sqlalchemy.url")
    )
    if not named:
        raise SystemExit(
            "no database: set OBAN_DATABASE_URL or DATABASE_URL, such as postgresql://user:password@localhost/app"
        )
    url = make_url(named)
    if url.drivername in {"postgres", "postgresql"}:
        url = url.set(drivername="postgresql+asyncpg")
    return url


def migrate(connection: Connection | None = None) -> None:
    """Run the migrations on a connection, or print them where there is none."""
    context.configure(
        connection=connection,
        dialect_name=None if connection is not None else "postgresql",
        version_table=config.get_main_option("version_table"),
        version_table_schema=schema,
        transaction_per_migration=True,
        literal_binds=connection is None,
    )
    make_schema = f"DO $$ BEGIN IF to_regnamespace({ddl.literal(ddl.quoted(schema))}) IS NULL THEN CREATE SCHEMA "
    make_schema += f"{ddl.quoted(schema)}; END IF; END $$"
    # The table of versions lives in the schema too, and Alembic makes it first.
    if connection is None:
        context.execute(make_schema)
    else:
        connection.exec_driver_sql(make_schema)
        connection.commit()
    with context.begin_transaction():
        context.run_migrations()


async def migrate_async(url: URL) -> None:
    """Run the migrations through a driver for asyncio."""
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


def migrate_sync(url: URL) -> None:
    """Run the migrations through an ordinary driver."""
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        migrate(connection)
    engine.dispose()


if context.is_offline_mode():
    migrate()
elif (url := database_url()).get_dialect().is_async:
    # A thread of its own, because the caller may have a running loop already.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(migrate_async(url))).result()
else:
    migrate_sync(url)
