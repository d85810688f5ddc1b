"""Starts our commands quickly: each is forked from a process that has imported what they consist of.

To import it takes a process a second, longer than most tests let it live. What runs is `python -m MODULE` or
`python -c CODE` all the same, with arguments, environment, folder, output, signals and an exit code of its own. Not for
tests of how a process starts: `sys.orig_argv` and the command line are the nursery's, and so are flags of Python.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

IMPORTED: Final = (
    "oban_sa.runner",
    "oban_sa.service.command",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "asyncpg",
    "psycopg",
)
"""Without uvloop, which some tests replace."""

_SIZE: Final = struct.Struct("!I")


class Forked:
    """A running process, with the interface of `subprocess.Popen`."""

    def __init__(self, channel: socket.socket, stdout: IO[str] | None, stderr: IO[str] | None) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None
        self.pid = int(self._line())

    def poll(self) -> int | None:
        """Return its exit code, minus the signal's number where a signal ended it, or None while it runs."""
        return self._ended(0)

    def wait(self, timeout: float) -> int:
        """Return its exit code; raises `subprocess.TimeoutExpired`."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, within: float) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], within)[0]:
            with self._lock:
                if self.returncode is None:
                    self.returncode = int(self._line())
                    self._channel.close()
        return self.returncode

    def _line(self) -> bytes:
        said = self._channel.recv(64)
        if not said:
            raise RuntimeError("the nursery is gone")
        return said


class Nursery:
    """The process that others are forked from; it ends, and they with it, when this one does."""

    def __init__(self, env: Mapping[str, str], cwd: str | Path) -> None:
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=env,
                cwd=cwd,
            )
        self._lock = threading.Lock()
        atexit.register(self.close)

    def close(self) -> None:
        self._orders.close()
        self._popen.wait()

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | Path, log: IO[bytes] | None = None
    ) -> Forked:
        """Start `-m MODULE` or `-c CODE`, with arguments; what it says is in pipes, or in `log`."""
        order = json.dumps({"command": list(command), "env": dict(env), "cwd": str(cwd)}).encode()
        channel, theirs = socket.socketpair()
        with theirs:
            if log is not None:
                self._send(order, [log.fileno(), log.fileno(), theirs.fileno()])
                return Forked(channel, None, None)
            stdout, write_stdout = os.pipe()
            stderr, write_stderr = os.pipe()
            self._send(order, [write_stdout, write_stderr, theirs.fileno()])
            os.close(write_stdout)
            os.close(write_stderr)
            return Forked(channel, _text(stdout), _text(stderr))

    def _send(self, order: bytes, fds: list[int]) -> None:
        with self._lock:
            socket.send_fds(self._orders, [_SIZE.pack(len(order))], fds)
            self._orders.sendall(order)


def _text(fd: int) -> IO[str]:
    return open(fd, encoding="utf-8", errors="replace", buffering=1)


def main(orders: socket.socket) -> None:
    """Fork a process for each order; each runs its command, and the interpreter ends as usual in each."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Ctrl-C at the terminal goes to every process; the children hear it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    order = _serve(orders)
    if order is not None:
        _become(order)


def _serve(orders: socket.socket) -> dict[str, Any] | None:
    """Return the order in the child that is to follow it, and None in this process when no more will come."""
    born: dict[int, socket.socket] = {}
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([orders, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _tell_of_deaths(born)
        if orders in readable:
            head, fds, _, _ = socket.recv_fds(orders, _SIZE.size, 3)
            if not head:
                for pid in born:
                    os.kill(pid, signal.SIGKILL)
                return None
            order: dict[str, Any] = json.loads(_exactly(orders, _SIZE.unpack(head)[0]))
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number, fd in enumerate(fds[:2], start=1):
                    os.dup2(fd, number)
                for fd in (*fds, woken, wake):
                    os.close(fd)
                for each in (orders, *born.values()):
                    each.close()
                return order
            for fd in fds[:2]:
                os.close(fd)
            born[pid] = socket.socket(fileno=fds[2])
            born[pid].sendall(str(pid).encode())


def _exactly(orders: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += orders.recv(size - len(data))
    return data


def _tell_of_deaths(born: dict[int, socket.socket]) -> None:
    while born:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with born.pop(pid) as channel, contextlib.suppress(OSError):
            channel.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _become(order: Mapping[str, Any]) -> None:
    """Do what Python does with these words; whatever is raised goes on, as from there."""
    kind, what, *arguments = order["command"]
    env: dict[str, str] = order["env"]
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(env)
    # Otherwise the children of one nursery would draw the same numbers.
    random.seed()
    wanted = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    others = [path for path in sys.path[1:] if path not in wanted]
    sys.path[:] = [order["cwd"] if kind == "-m" else "", *wanted, *others]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(what, "<string>", "exec"), vars(module))


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
