"""After kills of every kind the next start finds its way."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from oban_sa import embedded
from oban_sa.embedded import binaries
from tests.embedded.users import answers, pid_seen_by, supervisor_of, user
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("made_before")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to its parent's life")


@linux
async def test_the_server_dies_with_its_supervisor(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    server = attachment.open()
    os.kill(supervisor_of(server.pid), signal.SIGKILL)
    await eventually(lambda: not answers(server))
    attachment.close()


@linux
async def test_after_everything_was_killed_at_once_the_next_start_has_what_was_committed(folder: Path) -> None:
    with user(folder, fast=False) as only:
        pid = await pid_seen_by(only)
        url = (await only.says("using")).split()[2]
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        for victim in (only.pid, supervisor_of(pid), pid):
            os.kill(victim, signal.SIGKILL)
    assert (folder / "postgresql" / "server.json").exists(), "nothing was there to recover from"
    with embedded.start(folder) as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (42,)


async def test_a_killed_server_can_be_started_again_at_once_under_the_same_url(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    before = attachment.open()
    busy = psycopg.connect(before.url)
    os.kill(before.pid, signal.SIGKILL)
    attachment.close()
    with embedded.start(folder, fast=True) as after:
        assert after.url == before.url
        assert after.pid != before.pid
        psycopg.connect(after.url).close()
    busy.close()


@pytest.mark.parametrize("shows_where_it_works", [True, False])
def test_a_stale_pid_file_that_names_an_innocent_process_is_cleared_and_the_process_left_alone(
    folder: Path, shows_where_it_works: bool
) -> None:
    with embedded.start(folder, fast=True) as before:
        trace = (before.data / "postmaster.pid").read_text().splitlines()
    owner = before.data.stat()
    with subprocess.Popen(
        ["/bin/cat"],
        stdin=subprocess.PIPE,
        user=owner.st_uid if os.geteuid() == 0 else None,
        # Another group is enough for the system to hide where a process works.
        group=owner.st_gid if os.geteuid() == 0 and shows_where_it_works else None,
        extra_groups=[] if os.geteuid() == 0 else None,
    ) as innocent:
        stale = before.data / "postmaster.pid"
        stale.write_text("\n".join([str(innocent.pid), *trace[1:], ""]))
        os.chown(stale, owner.st_uid, owner.st_gid)
        with embedded.start(folder, fast=True) as after:
            assert after.pid not in (before.pid, innocent.pid)
            psycopg.connect(after.url).close()
        assert innocent.poll() is None
        innocent.communicate(b"\n")


def test_a_server_json_left_over_from_a_crash_is_not_believed(folder: Path) -> None:
    told = folder / "postgresql" / "server.json"
    with embedded.start(folder, fast=True) as before:
        info = told.read_text()
    with socket.create_server(("127.0.0.1", 0)) as other:
        told.write_text(info.replace(str(before.port), str(other.getsockname()[1])))
        shutil.chown(told, before.data.stat().st_uid)
        with embedded.start(folder, fast=True) as after:
            psycopg.connect(after.url).close()


@linux
async def test_the_next_start_waits_for_what_a_killed_server_left_running(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    before = attachment.open()
    with psycopg.connect(before.url) as connection:
        session = connection.info.backend_pid
        os.kill(session, signal.SIGSTOP)
        os.kill(before.pid, signal.SIGKILL)
        attachment.close()
        starting = asyncio.create_task(asyncio.to_thread(attachment.open))
        log = folder / "postgresql" / "log"
        await eventually(lambda: "pre-existing shared memory block" in log.read_text())
        os.kill(session, signal.SIGCONT)
        after = await starting
        attachment.close()
        assert after.pid != before.pid
        connection.close()


def test_what_a_killed_initdb_left_is_neither_taken_for_data_nor_kept(folder: Path) -> None:
    half = folder / "postgresql" / "data.new-1234"
    with embedded.start(folder, fast=True) as server:
        owner = server.data.stat()
        for path in (server.data, folder / "postgresql"):
            assert path.exists()
    os.rename(server.data, half)
    (half / "PG_VERSION").unlink()
    with embedded.start(folder, fast=True) as server:
        assert server.data.stat().st_uid == owner.st_uid
        psycopg.connect(server.url).close()
    assert not half.exists()


def test_a_server_that_runs_without_a_supervisor_is_stopped_and_started_afresh(folder: Path) -> None:
    with embedded.start(folder, fast=True) as before:
        owner = before.data.stat()
    account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    program = binaries.choose(before.data).folder / "postgres"
    options = ["-c", f"port={before.port}", "-c", "unix_socket_directories="]
    with subprocess.Popen([program, "-D", before.data, *options], cwd="/", **account, stderr=subprocess.PIPE) as orphan:
        assert orphan.stderr is not None
        while b"ready to accept connections" not in (line := orphan.stderr.readline()):
            assert line, "it ended"
        with embedded.start(folder, fast=True) as fresh:
            assert orphan.wait(10) == 0
            assert fresh.pid != orphan.pid
            psycopg.connect(fresh.url).close()
