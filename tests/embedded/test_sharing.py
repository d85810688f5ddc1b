"""Several users of one folder: one server, for exactly as long as any of them lives."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from oban_sa import embedded
from tests.embedded.users import answers, pid_seen_by, supervisor_of, user
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("made_before")

# Python warns of a fork in a process with threads, and real servers fork; this child runs nothing that could deadlock.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


@pytest.mark.parametrize("made", [True, False])
async def test_four_that_start_at_once_end_with_one_server(folder: Path, *, made: bool) -> None:
    folder = folder if made else folder.with_name(f"{folder.name} new")
    with ExitStack() as stack:
        users = [stack.enter_context(user(folder)) for _ in range(4)]
        assert len({await pid_seen_by(each) for each in users}) == 1


async def test_the_server_outlives_the_one_who_started_it(folder: Path) -> None:
    with user(folder) as first:
        pid = await pid_seen_by(first)
        with embedded.start(folder, fast=True) as server:
            assert server.pid == pid
            first.interrupt()
            await first.ended()
            with psycopg.connect(server.url) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        assert not answers(server)


async def test_a_killed_user_no_longer_counts(folder: Path) -> None:
    with user(folder) as only:
        await pid_seen_by(only)
        server = embedded.start(folder, fast=True)
        port = server.open().port
        server.close()
        assert answers(port), "it has a user still"
        only.kill()
        await eventually(lambda: not answers(port))


async def test_users_of_one_process_count_one_by_one(folder: Path) -> None:
    with embedded.start(folder, fast=True) as outer:
        with embedded.start(folder, fast=True) as inner:
            assert inner == outer
        assert answers(outer)
    assert not answers(outer)


@forks
def test_a_forked_child_is_a_user_of_its_own(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    port = attachment.open().port
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # as a worker of a pre-forking web server: it lives until the pipe is closed, and closes nothing
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    attachment.close()
    still = answers(port)
    os.close(write)
    os.waitpid(child, 0)
    assert still
    with embedded.start(folder, fast=True):
        pass
    assert not answers(port)


@forks
def test_a_forked_child_that_closes_takes_nothing_from_its_parent(folder: Path) -> None:
    attachment = embedded.start(folder, fast=True)
    with attachment as server:
        child = os.fork()
        if child == 0:
            attachment.close()
            os._exit(0)
        os.waitpid(child, 0)
        # A server that had lost its only user would be stopping, and this one would be another.
        with embedded.start(folder, fast=True) as again:
            assert again.pid == server.pid


async def test_ctrl_c_in_the_starters_terminal_does_not_reach_the_server(folder: Path) -> None:
    with user(folder) as first:
        pid = await pid_seen_by(first)
        assert os.getsid(pid) != os.getsid(first.pid)
        assert os.getpgid(pid) != os.getpgid(first.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a process is")
def test_nothing_keeps_the_starters_directory_busy(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        assert os.readlink(f"/proc/{supervisor_of(server.pid)}/cwd") == "/"
