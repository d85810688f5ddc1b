"""Several hosts in one URL, and sockets, as libpq and SQLAlchemy write them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from oban_sa.errors import InvalidOption
from oban_sa.runner.database.engine import connect, create_engine
from oban_sa.runner.database.failures import explained
from oban_sa.runner.database.hosts import without_hosts
from tests.support import plain_url


def dead() -> int:
    """A port at which nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
    return port


async def reaches(url: str) -> tuple[Any, Any]:
    """What the engine and the listener find at a URL."""
    engine = create_engine(url)
    try:
        async with engine.connect() as connection:
            one = await connection.scalar(text("SELECT current_database()"))
    finally:
        await engine.dispose()
    listening = await connect(url)
    try:
        return one, await listening.fetchval("SELECT current_database()")
    finally:
        await listening.close()


@asynccontextmanager
async def socket_to(url: str, folder: Path) -> AsyncIterator[None]:
    """A Unix socket in the folder that leads to the server of the URL."""
    parts = urlsplit(url)

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(parts.hostname, parts.port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(pump(reader, back), pump(there, writer), return_exceptions=True)

    server = await asyncio.start_unix_server(forward, folder / ".s.PGSQL.5432")
    async with server:
        yield


@pytest.mark.parametrize(
    "form",
    [
        "{scheme}://{user}@127.0.0.1:{dead},{host}:{port}/{name}",
        "{scheme}://{user}@127.0.0.1:{dead},{host}:{port}/{name}?target_session_attrs=primary",
        "{scheme}://{user}@{host}:{port},127.0.0.1:{dead}/{name}?target_session_attrs=prefer-standby",
        "{scheme}://{user}@/{name}?host=127.0.0.1:{dead},{host}:{port}",
        "{scheme}://{user}@/{name}?host=127.0.0.1:{dead}&host={host}:{port}&sslmode=prefer",
        "{scheme}://{user}@/{name}?host=127.0.0.1,{host}&port={dead},{port}",
        "{scheme}://{user}@127.0.0.1:{dead}/{name}?host={host}&port={port}",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+asyncpg"])
async def test_the_first_host_that_answers_is_taken(database_url: str, form: str, scheme: str) -> None:
    parts = urlsplit(plain_url(database_url))
    user = parts.netloc.rpartition("@")[0]
    name = parts.path[1:]
    url = form.format(scheme=scheme, user=user, host=parts.hostname, port=parts.port, name=name, dead=dead())
    assert await reaches(url) == (name, name)


async def test_a_host_that_never_answers_leaves_time_for_the_next(database_url: str) -> None:
    parts = urlsplit(plain_url(database_url))
    user, _, place = parts.netloc.rpartition("@")

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        port = silent.sockets[0].getsockname()[1]
        url = f"postgresql://{user}@127.0.0.1:{port},{place}{parts.path}?connect_timeout=1"
        assert await reaches(url) == (parts.path[1:],) * 2


@pytest.mark.parametrize(
    "form", ["//{user}@{quoted}/{name}", "//{user}@{quoted}:5432/{name}", "//{user}@/{name}?host={folder}"]
)
async def test_a_socket_is_a_host(database_url: str, tmp_path: Path, form: str) -> None:
    parts = urlsplit(plain_url(database_url))
    url = "postgresql:" + form.format(
        user=parts.netloc.rpartition("@")[0], quoted=quote(str(tmp_path), safe=""), folder=tmp_path, name=parts.path[1:]
    )
    async with socket_to(plain_url(database_url), tmp_path):
        assert await reaches(url) == (parts.path[1:],) * 2


async def test_no_host_that_is_what_was_asked_for_is_explained(database_url: str) -> None:
    url = f"{plain_url(database_url)}?target_session_attrs=standby"
    parts = urlsplit(url)
    url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{dead()},{parts.hostname}:{parts.port}")
    engine = create_engine(url)
    with pytest.raises(DBAPIError) as failed:
        await engine.connect()
    await engine.dispose()
    said = str(explained(failed.value, url))
    assert f"{parts.hostname}:{parts.port} is what target_session_attrs asks for" in said
    assert str(parts.password) not in said


async def test_nothing_at_any_of_the_hosts_names_them(tmp_path: Path) -> None:
    one, two = dead(), dead()
    url = f"postgresql://u:hush@127.0.0.1:{one},127.0.0.1:{two}/d"
    with pytest.raises(OSError) as failed:
        await connect(url)
    said = str(explained(failed.value, url))
    assert f"127.0.0.1:{one}, 127.0.0.1:{two}" in said
    assert "hush" not in said
    gone = f"postgresql://u:hush@{quote(str(tmp_path), safe='')}/d"
    with pytest.raises(OSError) as failed:
        await connect(gone)
    assert f"no socket of PostgreSQL at {tmp_path}" in str(explained(failed.value, gone))


@pytest.mark.parametrize(
    ("url", "rest", "hosts"),
    [
        ("postgresql://u:p@h:1/d?x=1", "postgresql://u:p@h:1/d?x=1", []),
        ("postgresql:///d", "postgresql:///d", []),
        ("postgresql://u:p@a:1,b/d", "postgresql://u:p@/d", [("a", 1), ("b", 5432)]),
        ("postgresql://a,b,c:7", "postgresql://", [("a", 5432), ("b", 5432), ("c", 7)]),
        ("postgresql://[::1]:1,[fe80::2]/d", "postgresql:///d", [("::1", 1), ("fe80::2", 5432)]),
        ("postgresql:///d?host=::1&x=1", "postgresql:///d?x=1", [("::1", 5432)]),
        ("postgresql:///d?host=/tmp", "postgresql:///d", [("/tmp", 5432)]),
        ("postgresql:///d?host=/tmp:6000", "postgresql:///d", [("/tmp", 6000)]),
        ("postgresql://%2Ftmp,b:1/d", "postgresql:///d", [("/tmp", 5432), ("b", 1)]),
        ("postgresql:///d?host=a,b&port=9", "postgresql:///d", [("a", 9), ("b", 9)]),
        ("no url", "no url", []),
    ],
)
def test_hosts_are_read_as_libpq_and_sqlalchemy_write_them(url: str, rest: str, hosts: list[Any]) -> None:
    assert without_hosts(url) == (rest, hosts)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hush@a:1,b:x/d",
        "postgresql://u:hush@a:1,b:0/d",
        "postgresql://u:hush@a:1,b:99999/d",
        "postgresql://u:hush@/d?host=a,b,c&port=1,2",
    ],
)
def test_ports_that_are_none_are_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(InvalidOption, match=r"write .*host:port|one:5432,two:5432") as refused:
        create_engine(url)
    assert "hush" not in str(refused.value)
