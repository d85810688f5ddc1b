"""Processes that use an embedded server, and ways to look at one from outside."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oban_sa.embedded import Server
from oban_sa.embedded.server import Server as _Server
from tests.support import Process, forked

USER = """
import json, signal, sys
from oban_sa import embedded

with embedded.start(sys.argv[1], fast=sys.argv[2] == "fast") as server:
    print("using", server.pid, server.url, flush=True)
    while True:
        signal.pause()
"""


@contextmanager
def user(folder: Path, *, fast: bool = True) -> Iterator[Process]:
    """Another process that uses the server of `folder` until it is told to end."""
    with forked(["-c", USER, str(folder), "fast" if fast else "durable"]) as running:
        yield running


async def pid_seen_by(running: Process) -> int:
    """The process id of the server that another process uses."""
    return int((await running.says("using")).split()[1])


def answers(server: Server | int) -> bool:
    """Whether anything listens where the server was."""
    port = server.port if isinstance(server, _Server) else server
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def supervisor_of(pid: int) -> int:
    """The parent of a server's process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
