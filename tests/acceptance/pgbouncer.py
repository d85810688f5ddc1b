"""A PgBouncer in transaction mode, before a database of this run's server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.support import eventually

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def version() -> tuple[int, int]:
    """Of the program that is installed."""
    assert PROGRAM is not None
    said = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor, *_ = said.split()[1].split(".")
    return int(major), int(minor)


@contextmanager
def pooler(url: str, *, prepared: int = 0) -> Iterator[str]:
    """Run one with three connections to the server, and give the URL through it; `prepared` statements are kept."""
    assert PROGRAM is not None
    to = make_url(url)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = [f"host={to.host}", f"port={to.port or 5432}", f"user={to.username}", f"dbname={to.database}"]
    if to.password:
        where.append(f"password='{to.password}'")
    with tempfile.TemporaryDirectory(prefix="oban-pgbouncer-") as name:
        folder = Path(name)
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 3,
            "max_client_conn": 200,
            "logfile": folder / "log",
        }
        if version() >= (1, 21):
            settings["max_prepared_statements"] = prepared
        lines = [f"{key} = {value}" for key, value in settings.items()]
        (folder / "pgbouncer.ini").write_text(
            "\n".join(["[databases]", f"pooled = {' '.join(where)}", "[pgbouncer]", *lines])
        )
        account = None
        if os.geteuid() == 0:  # it refuses to run as root
            account = "nobody"
            shutil.chown(folder, account)
            shutil.chown(folder / "pgbouncer.ini", account)
        running = subprocess.Popen([PROGRAM, "-q", str(folder / "pgbouncer.ini")], user=account, cwd=folder)
        try:
            yield f"postgresql+asyncpg://anyone@127.0.0.1:{port}/pooled"
        finally:
            running.terminate()
            running.wait(10)


async def answers(url: str) -> None:
    """Return once it takes connections."""
    at = make_url(url)

    def connects() -> None:
        try:
            socket.create_connection((at.host, at.port), timeout=1).close()
        except OSError as error:
            raise AssertionError(f"no pooler answers at {at}: {error}") from error

    await eventually(connects)
