"""What tests of every kind need: patience, real processes and database addresses."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sqlalchemy.engine import make_url

from tests.nursery import Forked, Nursery

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parent.parent


async def eventually(fn: Callable[[], Any], within: float = 30.0, *, every: float = 0.02) -> Any:
    """Call `fn`, sync or async, until it stops raising AssertionError and answers neither False nor anything empty.

    Returns the answer; None counts as a pass, so a function made of asserts needs no return. Once `within` seconds
    are over the last AssertionError is raised, and every other exception is raised at once.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            answer = fn()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer is None or answer:
                return answer
            failure = AssertionError(f"after {within} s the answer was still {answer!r}")
        except AssertionError as error:
            failure = error
        if time.monotonic() >= deadline:
            raise failure
        await asyncio.sleep(every)


def sync_url(url: str, driver: str = "psycopg") -> str:
    """The same database through another driver: "psycopg", "psycopg2", "pg8000" or "asyncpg"."""
    return make_url(url).set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


def plain_url(url: str) -> str:
    """The same database as a `postgresql://` URL, the form that asyncpg, libpq and our commands take."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the repository first on PYTHONPATH and no setting of ours left in it."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("OBAN_") and name != "DATABASE_URL"
    }
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **(extra or {})}


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Work in this folder and without settings of ours in the environment, until the test ends."""
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith("OBAN_") and not name.startswith("OBAN_TEST"):
            monkeypatch.delenv(name)
    return folder


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        return not Path("/proc").exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):  # it may end between the two
        return False


class Process:
    """A running process whose output gathers in `stdout`, `stderr` and, in order of arrival, `output`."""

    def __init__(self, popen: subprocess.Popen[str] | Forked) -> None:
        self._popen = popen
        self._lines: list[tuple[str, str]] = []
        self._readers = [self._read("stdout", self._popen.stdout), self._read("stderr", self._popen.stderr)]

    def _read(self, name: str, stream: IO[str] | None) -> threading.Thread:
        assert stream is not None

        def gather() -> None:
            with stream:
                for line in stream:
                    self._lines.append((name, line))

        reader = threading.Thread(target=gather, daemon=True)
        reader.start()
        return reader

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        return "".join(line for _, line in list(self._lines))

    @property
    def stdout(self) -> str:
        return "".join(line for name, line in list(self._lines) if name == "stdout")

    @property
    def stderr(self) -> str:
        return "".join(line for name, line in list(self._lines) if name == "stderr")

    def wait(self, timeout: float = 30.0) -> int:
        """Block until it ends and everything it said has arrived; its output is in the error where it does not end."""
        try:
            code = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} still runs after {timeout} s; it said:\n{self.output}") from None
        for reader in self._readers:
            # A grandchild may hold the pipe open for longer; what it says is not waited for.
            reader.join(timeout=2.0)
        return code

    async def ended(self, within: float = 30.0) -> int:
        """The same as `wait`, without blocking the event loop."""
        return await asyncio.to_thread(self.wait, within)

    async def says(self, text: str, within: float = 30.0) -> str:
        """Wait until `text` is in the output, and return the line it is in; ended without it is a failure at once."""

        def line() -> str:
            done = self.returncode is not None and not any(reader.is_alive() for reader in self._readers)
            for candidate in self.output.splitlines():
                if text in candidate:
                    return candidate
            if done:
                raise RuntimeError(
                    f"process {self.pid} ended with {self.returncode} and never said {text!r}:\n{self.output}"
                )
            raise AssertionError(f"process {self.pid} has not said {text!r}; it said:\n{self.output}")

        return await eventually(line, within)

    def send(self, number: int) -> None:
        self._popen.send_signal(number)

    def interrupt(self) -> None:
        self.send(signal.SIGINT)

    def terminate(self) -> None:
        self._popen.terminate()

    def kill(self) -> None:
        self._popen.kill()


@contextmanager
def process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | Path = ROOT
) -> Iterator[Process]:
    """Start a real process, and kill it at the end of the block if it still runs.

    `env` is added to `environment()`. A command that starts with "-" is given to this Python:
    `process(["-m", "oban_sa.runner", "--until-idle"])`.
    """
    popen = subprocess.Popen(
        [sys.executable, *command] if command[0].startswith("-") else list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(env),
        cwd=cwd,
        text=True,
        encoding="utf-8",
        errors="replace",
        bufsize=1,
    )
    with _killed_in_the_end(Process(popen)) as running:
        yield running


@contextmanager
def forked(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | Path = ROOT
) -> Iterator[Process]:
    """Do the same in a tenth of the time, for tests of what a process does and not of how it starts: see `Nursery`.

    The command is `-m MODULE` or `-c CODE`, with arguments.
    """
    with _killed_in_the_end(Process(_nursery().start(command, env=environment(env), cwd=cwd))) as running:
        yield running


@cache
def _nursery() -> Nursery:
    return Nursery(environment(), ROOT)


@contextmanager
def _killed_in_the_end(running: Process) -> Iterator[Process]:
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        running.wait()


def run_python(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: str | Path = ROOT, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run this Python to its end: `run_python("-m", "oban_sa", "status")`, `run_python("-c", code)`.

    Its exit code is yours to look at; only `timeout` raises.
    """
    return subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
