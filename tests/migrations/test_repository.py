"""`alembic upgrade head` from the repository's root."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest
from alembic import command
from alembic.config import Config

from oban_sa.migrations import TABLES, missing
from tests.databases import environ
from tests.migrations.project import connecting, query, run_script, tables
from tests.support import ROOT, environment, plain_url, sync_url


def alembic(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=ROOT,
        env=environment(env),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("variable", "driver"),
    [
        ("OBAN_DATABASE_URL", "asyncpg"),
        ("DATABASE_URL", "psycopg"),
        ("DATABASE_URL", "psycopg2"),
        ("DATABASE_URL", "pg8000"),
    ],
)
def test_the_environment_names_the_database(empty_database_url: str, variable: str, driver: str) -> None:
    with environ(**{variable: sync_url(empty_database_url, driver)}):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
        assert tables(empty_database_url) == {f"public.{table}" for table in TABLES}
        command.downgrade(Config(ROOT / "alembic.ini"), "base")
    assert tables(empty_database_url) == {"public.oban_alembic_version"}


def test_the_command_takes_a_url_without_a_driver(empty_database_url: str) -> None:
    url = plain_url(empty_database_url).replace("postgresql:", "postgres:")
    done = alembic("upgrade", "head", env={"DATABASE_URL": url, "OBAN_SCHEMA": "jobs"})

    assert done.returncode == 0, done.stderr
    assert tables(empty_database_url) == {f"jobs.{table}" for table in TABLES}


def test_asyncpg_leaves_the_transaction_to_build_indexes_concurrently(empty_database_url: str) -> None:
    run_script(empty_database_url, (ROOT / "tests/migrations/elixir_v14.sql").read_text())
    query(empty_database_url, "INSERT INTO public.oban_jobs (worker) VALUES ('Theirs')")
    with environ(OBAN_DATABASE_URL=sync_url(empty_database_url, "asyncpg")):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
    with connecting(empty_database_url) as connection:
        assert missing(connection) == []


async def test_it_runs_from_within_a_running_loop(empty_database_url: str) -> None:
    assert asyncio.get_running_loop().is_running()
    with environ(OBAN_DATABASE_URL=sync_url(empty_database_url, "asyncpg")):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")
    assert "public.oban_jobs" in tables(empty_database_url)


@pytest.mark.parametrize("schema", ["public", "jobs"])
def test_sql_is_printed_without_any_database(empty_database_url: str, schema: str) -> None:
    up, down = io.StringIO(), io.StringIO()
    with environ(OBAN_SCHEMA=schema):
        command.upgrade(Config(ROOT / "alembic.ini", output_buffer=up), "head", sql=True)
        command.downgrade(Config(ROOT / "alembic.ini", output_buffer=down), "oban_v01:base", sql=True)

    run_script(empty_database_url, up.getvalue())
    assert tables(empty_database_url) == {f"{schema}.{table}" for table in TABLES}
    assert query(empty_database_url, f"SELECT count(*) FROM {schema}.oban_alembic_version") == [1]
    run_script(empty_database_url, down.getvalue())
    assert tables(empty_database_url) <= {f"{schema}.oban_alembic_version"}


def test_without_a_database_it_says_how_to_name_one() -> None:
    with environ(OBAN_DATABASE_URL=""), pytest.raises(SystemExit, match="set OBAN_DATABASE_URL or DATABASE_URL"):
        command.upgrade(Config(ROOT / "alembic.ini"), "head")


def test_the_folder_does_not_shadow_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()
    assert os.path.commonpath([command.__file__, ROOT / "alembic"]) != str(ROOT / "alembic")
