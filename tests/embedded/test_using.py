"""One user: what it gets, where it may be, and what it is told."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from pathlib import Path

import asyncpg
import psycopg
import pytest

from oban_sa import embedded
from oban_sa.embedded import EmbeddedError
from tests.embedded.users import answers
from tests.support import eventually, run_python

made_before = pytest.mark.usefixtures("made_before")


@made_before
async def test_an_application_can_use_the_url_as_it_is(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT current_setting('is_superuser')") == "on"
        await connection.close()


@made_before
async def test_the_server_works_with_async_with_too(folder: Path) -> None:
    async with embedded.start(folder, fast=True) as server:
        connection = await asyncpg.connect(server.url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    assert not answers(server)


async def test_a_start_that_is_cancelled_leaves_no_server_behind(folder: Path) -> None:
    async def use() -> None:
        async with embedded.start(folder, fast=True):
            raise AssertionError("it was cancelled before")

    using = asyncio.create_task(use())
    supervised = folder / "postgresql" / "server.lock"
    await eventually(supervised.exists)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    attachment = embedded.start(folder, fast=True)
    with attachment as server:
        assert answers(server)
    assert not answers(server)


async def test_a_start_that_is_cancelled_when_it_has_just_succeeded_is_undone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, cancelled = threading.Event(), threading.Event()
    really_open = embedded.Attachment.open

    def open_slowly(attachment: embedded.Attachment) -> embedded.Server:
        server = really_open(attachment)
        opened.set()
        cancelled.wait(30)
        return server

    monkeypatch.setattr(embedded.Attachment, "open", open_slowly)
    attachment = embedded.start(folder, fast=True)
    using = asyncio.create_task(attachment.__aenter__())
    await asyncio.to_thread(opened.wait)
    server = attachment.server
    using.cancel()
    await asyncio.sleep(0)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert not answers(server)


@made_before
def test_what_was_committed_is_there_at_the_next_start_under_the_same_url(folder: Path) -> None:
    with embedded.start(folder, fast=True) as first, psycopg.connect(first.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    with embedded.start(folder, fast=True) as second, psycopg.connect(second.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)
    assert first.url == second.url
    assert first.pid != second.pid


def test_nobody_gets_in_without_the_password(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        for attempt in (server.url.replace(server.password, "guessed"), server.url.replace(f":{server.password}", "")):
            with pytest.raises(psycopg.OperationalError, match=r"password authentication failed|no password supplied"):
                psycopg.connect(attempt, connect_timeout=5)


@made_before
def test_the_server_is_reached_on_the_loopback_alone(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server, psycopg.connect(server.url) as connection:
        where = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        assert connection.execute(where).fetchone() == ("127.0.0.1", "")


def test_the_password_is_readable_for_its_owner_alone_and_not_shown_by_repr(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        told = [path for path in folder.rglob("*") if path.is_file() and server.password.encode() in path.read_bytes()]
        assert {path.name for path in told} == {"server.json", "oban.password"}
        for path in (*told, server.data, folder / "postgresql"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert server.password not in repr(server)


@made_before
@pytest.mark.parametrize(("fast", "fsync"), [(False, "on"), (True, "off")])
def test_commits_are_durable_unless_speed_was_asked_for(folder: Path, fast: bool, fsync: str) -> None:
    with embedded.start(folder, fast=fast) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT current_setting('fsync')").fetchone() == (fsync,)


def test_fast_data_is_carried_to_the_disk_before_durable_use(folder: Path) -> None:
    unsynced = folder / "postgresql" / "unsynced"
    with embedded.start(folder, fast=True):
        assert unsynced.exists()
    with embedded.start(folder):
        assert not unsynced.exists()


@made_before
def test_settings_reach_the_server(folder: Path) -> None:
    with (
        embedded.start(folder, fast=True, settings={"max_connections": "17"}) as server,
        psycopg.connect(server.url) as connection,
    ):
        assert connection.execute("SHOW max_connections").fetchone() == ("17",)


@made_before
def test_a_setting_that_postgresql_refuses_is_explained_in_its_words(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match='unrecognized configuration parameter "speed"'):
        embedded.start(folder, fast=True, settings={"speed": "high"}).open()


def test_a_relative_folder_is_taken_from_where_start_was_called(
    run_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(mode=0o755)
    monkeypatch.chdir(folder)
    attachment = embedded.start(".oban", fast=True)
    monkeypatch.chdir(run_folder)
    with attachment as server:
        assert server.folder == folder / ".oban"
        assert server.data.is_relative_to(folder)


def test_a_path_longer_than_a_socket_may_have_works(folder: Path) -> None:
    deep = folder.joinpath(*["a folder with a long name"] * 8)
    with embedded.start(deep, fast=True) as server:
        assert len(str(server.data)) > 200
        assert answers(server)


@made_before
def test_a_port_can_be_chosen(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        port = server.port
    with embedded.start(folder.with_name("chosen"), fast=True, port=port) as server:
        assert server.port == port


@made_before
def test_a_chosen_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port} is taken; leave `port` out"):
            embedded.start(folder, fast=True, port=port).open()


@made_before
def test_a_remembered_port_that_is_taken_gives_way_to_another(folder: Path) -> None:
    with embedded.start(folder, fast=True) as before:
        pass
    with socket.create_server(("127.0.0.1", before.port)), embedded.start(folder, fast=True) as after:
        assert after.port != before.port
        psycopg.connect(after.url).close()


@made_before
def test_a_running_server_is_not_moved_to_another_port(folder: Path) -> None:
    with (
        embedded.start(folder, fast=True) as server,
        pytest.raises(EmbeddedError, match=f"already runs on port {server.port}, not 1024"),
    ):
        embedded.start(folder, fast=True, port=1024).open()


@made_before
def test_who_needs_durability_is_not_given_a_server_without(folder: Path) -> None:
    with embedded.start(folder, fast=True), pytest.raises(EmbeddedError, match="was started with fast=True"):
        embedded.start(folder).open()


@made_before
def test_who_asks_for_speed_is_content_with_durability(folder: Path) -> None:
    with embedded.start(folder) as durable, embedded.start(folder, fast=True) as attached:
        assert attached.pid == durable.pid
        assert not attached.fast


def test_a_file_in_the_way_is_named(folder: Path) -> None:
    folder.write_text("not a folder")
    with pytest.raises(EmbeddedError, match=r"no server can live in .*choose another folder"):
        embedded.start(folder, fast=True).open()


@made_before
def test_an_attachment_is_not_opened_twice(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    with attachment, pytest.raises(EmbeddedError, match="open already"):
        attachment.open()


def test_the_server_is_asked_for_inside_the_block(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="inside `with"):
        _ = embedded.start(folder).server


def test_the_servers_time_zone_is_not_that_of_who_starts_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    with embedded.start(folder, fast=True) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_it_works_from_a_directory_that_is_gone(folder: Path) -> None:
    gone = folder.with_name(f"{folder.name} gone")
    gone.mkdir()
    code = (
        # Python 3.13 itself can't look a codec up any more there, and needs this one for every connection.
        "import os, sys; 'host'.encode('idna'); from oban_sa import embedded\n"
        "os.chdir(sys.argv[2]); os.rmdir(sys.argv[2])\n"
        "with embedded.start(sys.argv[1], fast=True) as server: print(server.version)"
    )
    ran = run_python("-c", code, str(folder), str(gone))
    assert ran.returncode == 0, ran.stderr
    assert os.path.exists(folder)
