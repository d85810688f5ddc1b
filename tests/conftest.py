"""One PostgreSQL per run, a template database migrated once, a fresh database per test.

The server is `OBAN_TEST_DATABASE_URL` where that is set, else a container where a Docker engine answers, else a
private one of `oban_sa.embedded`. Every URL a fixture gives is `postgresql+asyncpg://`; `tests.support` turns it into
another driver's.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from oban_sa.telemetry import log_guard
from tests.databases import PREFIX, Databases, Server, in_memory, some_server, sweep
from tests.places import DRIVERS, AppDatabase
from tests.support import sync_url

if TYPE_CHECKING:
    from tests.ownserver import OwnServer

FOLDER = "OBAN_TEST_FOLDER"

# No property fails because the machine is busy: hypothesis may not judge how long an example took.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all workers of this run share, so that they share one embedded server too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts its background jobs so; processes that the tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        sweep()
        folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        # As root the server runs under another account, which has to get through to its data.
        folder.chmod(0o755)
        os.environ[FOLDER] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and (folder := os.environ.pop(FOLDER, None)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(Path("/dev/shm") / Path(folder).name, ignore_errors=True)


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was made so far: it is there until the end, and much."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Spell what no encoding can hold in what was captured: pytest-xdist could not send it, and would end the run."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """A folder every account can get through to, removed when the run ends."""
    return Path(os.environ[FOLDER])


@pytest.fixture(scope="session")
def server(run_folder: Path) -> Iterator[Server]:
    """The PostgreSQL of this run: `.url`, `.create_database(name, template=None) -> url`, `.drop_database(name)`."""
    with some_server(run_folder) as running:
        yield running


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Databases]:
    """Databases cloned from a template that was migrated once; dropped in the background after use."""
    with Databases(server) as made:
        yield made


@pytest.fixture
def database_url(databases: Databases) -> Iterator[str]:
    """A fresh database that has our tables, for this test alone."""
    with databases.fresh() as url:
        yield url


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """A fresh database without any table, for this test alone."""
    with databases.fresh(migrated=False) as url:
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(database_url)
    yield made
    await made.dispose()


@pytest.fixture(params=["asyncpg", "psycopg"])
async def driven(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on each asynchronous driver in turn."""
    made = create_async_engine(sync_url(database_url, request.param))
    yield made
    await made.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def sync_engine(database_url: str) -> Iterator[Engine]:
    """The database of `engine`, through psycopg."""
    made = create_engine(sync_url(database_url))
    yield made
    made.dispose()


@pytest.fixture
def sync_sessions(sync_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(sync_engine, expire_on_commit=False)


@pytest.fixture(name="sync_url")
def sync_url_fixture() -> object:
    """The function `tests.support.sync_url`, as a fixture."""
    return sync_url


@pytest.fixture
def unchanged_logging() -> Iterator[None]:
    """What a command does to logging is its own process's business, so it is undone here."""
    root, library = logging.getLogger(), logging.getLogger("oban_sa")
    before = root.handlers[:], root.level, library.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    library.setLevel(before[2])
    log_guard.uninstall()
    logging.captureWarnings(False)


@pytest.fixture
def own_server(run_folder: Path) -> Iterator[OwnServer]:
    """A durable PostgreSQL for this test alone, started and migrated: `.url`, `.stop()`, `.kill()`, `.start()`."""
    from tests.ownserver import OwnServer, copy_made

    folder = (in_memory(run_folder) or run_folder) / f"own-{secrets.token_hex(4)}"
    copy_made(run_folder, folder)
    with OwnServer(folder) as own:
        yield own


@pytest.fixture(scope="module", params=DRIVERS)
def shared_app_db(request: pytest.FixtureRequest, databases: Databases) -> Iterator[AppDatabase]:
    with databases.fresh() as url:
        app_db = AppDatabase(url, request.param)
        yield app_db
        app_db.close()


@pytest.fixture
def app_db(shared_app_db: AppDatabase) -> AppDatabase:
    """A database without rows that the tests of a module share, reached through each driver in turn."""
    shared_app_db.empty()
    return shared_app_db
