"""The PostgreSQL of a run of the tests, and the databases on it that tests get."""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psycopg
from alembic import command
from alembic.config import Config
from psycopg import sql
from sqlalchemy.engine import make_url

from tests.support import ROOT, plain_url, sync_url

PREFIX = "oban-tests-"
"""Of the folder of a run, before the id of its process."""

ROOM = 6 * 2**30
"""Bytes that have to be free in memory for the server of a run, which takes up to a third of it."""


@dataclass
class Server:
    """A running PostgreSQL whose `url` may create databases.

    It keeps a connection for creating and one for dropping, since both are done for nearly every test; a `with` block
    closes them.
    """

    url: str

    def __post_init__(self) -> None:
        self._connections: dict[str, psycopg.Connection] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._connections:
            self._connections.popitem()[1].close()

    def create_database(self, name: str, template: str | None = None) -> str:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template or "template0")
        )
        connection = self._connected("create")
        # The other way, which writes the copy to the WAL, takes twice the CPU.
        if connection.info.server_version >= 150000:
            statement += sql.SQL(" STRATEGY FILE_COPY")
        connection.execute(statement)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop it and end its connections."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        self._connected("drop").execute(statement)

    def url_of(self, name: str) -> str:
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def trust(self) -> None:
        """Let its own role in without a password, whose proof takes a client 2 ms; any other role needs one as before.

        Several processes do this at once, so only the first changes the file.
        """
        role = make_url(self.url).username
        rules = (f"host all {role} 127.0.0.1/32 trust", "host all,replication all 127.0.0.1/32 scram-sha-256")
        with psycopg.connect(plain_url(self.url), autocommit=True) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(1)")
            trusting = "SELECT auth_method FROM pg_hba_file_rules WHERE auth_method = 'trust'"
            if connection.execute(trusting).fetchone():
                return
            [(file,)] = connection.execute("SHOW hba_file").fetchall()
            copy = sql.SQL("COPY (SELECT unnest({}::text[])) TO {}").format(sql.Literal(list(rules)), sql.Literal(file))
            connection.execute(copy)
            connection.execute("SELECT pg_reload_conf()")

    def _connected(self, purpose: str) -> psycopg.Connection:
        """Return the connection for a purpose, which threads may share."""
        with self._lock:
            if purpose not in self._connections:
                self._connections[purpose] = psycopg.connect(plain_url(self.url), autocommit=True)
            return self._connections[purpose]


class Databases:
    """Fresh databases for tests; the next one is cloned and the last one dropped while a test runs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._run = f"oban_test_{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._clones = ThreadPoolExecutor(1, thread_name_prefix="clone-databases")
        self._drops = ThreadPoolExecutor(1, thread_name_prefix="drop-databases")
        self._dropping: list[Future[None]] = []
        self._next: Future[str] | None = None
        self._template: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next is not None:
            self._drop(self._next.result())
        self._clones.shutdown()
        if self._template is not None:
            self._drop(self._template)
        self._drops.shutdown()
        for drop in self._dropping:
            drop.result()

    @property
    def template(self) -> str:
        """The name of the database that was migrated once; made when first asked for."""
        if self._template is None:
            name = f"{self._run}_template"
            url = self.server.create_database(name)
            try:
                migrate(url)
            except BaseException:
                self.server.drop_database(name)
                raise
            self._template = name
        return self._template

    @contextmanager
    def fresh(self, *, migrated: bool = True) -> Iterator[str]:
        name = self._take_clone() if migrated else self._create(None)
        yield self.server.url_of(name)
        self._drop(name)

    def _take_clone(self) -> str:
        taken = self._next or self._clones.submit(self._create, self.template)
        self._next = None
        name = taken.result()
        self._next = self._clones.submit(self._create, self.template)
        return name

    def _create(self, template: str | None) -> str:
        name = f"{self._run}_{next(self._numbers)}"
        self.server.create_database(name, template)
        return name

    def _drop(self, name: str) -> None:
        self._dropping.append(self._drops.submit(self.server.drop_database, name))


def migrate(url: str) -> None:
    """Bring the database to the newest version, through the repository's own Alembic environment."""
    config = Config(ROOT / "alembic.ini", attributes={"configure_logger": False})
    with environ(OBAN_DATABASE_URL=sync_url(url)):
        command.upgrade(config, "head")


@contextmanager
def environ(**values: str) -> Iterator[None]:
    """Set environment variables for a while; OBAN_SCHEMA of the calling shell is hidden."""
    before = {name: os.environ.get(name) for name in ("OBAN_SCHEMA", *values)}
    os.environ.pop("OBAN_SCHEMA", None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def some_server(folder: Path) -> Iterator[Server]:
    if url := os.environ.get("OBAN_TEST_DATABASE_URL"):
        with Server(sync_url(url, "asyncpg")) as server:
            yield server
        return
    if docker_answers():
        from testcontainers.postgres import PostgresContainer

        container = PostgresContainer("postgres:17-alpine", driver=None).with_command(
            "postgres -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c max_prepared_transactions=20"
        )
        try:
            container.start()
        except Exception as error:  # an engine that cannot fetch the image is as good as none
            warnings.warn(
                f"Docker answers but could not start a container, so oban_sa.embedded is used: {error}", stacklevel=1
            )
        else:
            try:
                with Server(sync_url(container.get_connection_url(), "asyncpg")) as server:
                    yield server
            finally:
                container.stop()
            return
    from oban_sa import embedded

    memory = in_memory(folder)
    with (
        embedded.start((memory or folder) / "server", fast=True) as running,
        Server(sync_url(running.url, "asyncpg")) as server,
    ):
        server.trust()
        yield server


def in_memory(folder: Path) -> Path | None:
    """The twin of a run's folder in memory, or None where this machine has no room for it.

    On a disk a database that is made and dropped costs three times the CPU, and each of thousands of tests has its own.
    """
    try:
        memory = Path("/dev/shm")
        room, flags = os.statvfs(memory), os.statvfs(memory).f_flag
        [available] = [line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line]
    except (OSError, ValueError):
        return None
    free = min(room.f_bavail * room.f_frsize, int(available.split()[1]) * 1024)
    if free < ROOM or flags & os.ST_NOEXEC or not os.access(memory, os.W_OK | os.X_OK):
        return None
    twin = memory / folder.name
    twin.mkdir(mode=0o755, exist_ok=True)
    twin.chmod(0o755)
    return twin


def sweep(memory: Path = Path("/dev/shm")) -> None:
    """Remove what runs have left in memory that were killed: folders of processes that are gone."""
    for left in memory.glob(f"{PREFIX}*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


def docker_answers() -> bool:
    """Whether a Docker engine answers a ping within a second, asked without importing its client."""
    address = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    try:
        if address.scheme not in ("unix", "tcp"):
            return False
        family = socket.AF_UNIX if address.scheme == "unix" else socket.AF_INET
        with socket.socket(family) as connection:
            connection.settimeout(1.0)
            connection.connect(
                address.path if family == socket.AF_UNIX else (address.hostname or "127.0.0.1", address.port or 2375)
            )
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(64)
    except OSError:
        return False
