"""Starts runners quickly: forked from a process that has imported what the command imports, each a process of its own.

A run kills dozens of them, and on a busy machine nearly all of its time would be spent on importing. What runs in each
is the command, `python -m oban_sa.runner` with its own arguments, signals and exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support import ROOT, environment


class Child:
    """A process of the nursery's; what it says is in its `log`."""

    def __init__(self, pid: int, log: Path) -> None:
        self.pid = pid
        self.log = log
        self.returncode: int | None = None
        """None while it runs; minus the signal's number where a signal ended it."""

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Nursery:
    """The process that the others are forked from; entered once, and all of them end with it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._children: dict[int, Child] = {}
        self._born: asyncio.Queue[int] = asyncio.Queue()
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._hearing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.acceptance.chaos.nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(self._env),
            cwd=ROOT,
        )
        self._hearing = asyncio.create_task(self._hear())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None and self._process.stdin is not None and self._hearing is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._hearing

    async def start(self, arguments: Sequence[str], *, log: Path) -> Child:
        """Start the runner command with these arguments."""
        assert self._process is not None and self._process.stdin is not None
        async with self._lock:
            order = {"arguments": list(arguments), "log": str(log)}
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            pid = await self._born.get()
            child = self._children[pid] = Child(pid, log)
            return child

    async def _hear(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said: dict[str, Any] = json.loads(line)
            if "code" in said:
                self._children[said["pid"]].returncode = said["code"]
            else:
                self._born.put_nowait(said["pid"])


def main() -> None:
    """Fork a runner for each line of standard input; say the pids of those that were born, and how others ended."""
    import tests.acceptance.chaos.workers  # noqa: F401

    gc.collect()
    gc.freeze()
    living: set[int] = set()
    try:
        _serve(living)
    finally:
        # Also where whoever gave the orders is gone, and hears nothing any more.
        for pid in living:
            os.kill(pid, signal.SIGKILL)


def _serve(living: set[int]) -> None:
    pending = b""
    while True:
        readable, _, _ = select.select([0], [], [], 0.02)
        if readable:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                order = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    _become(order)
                living.add(pid)
                _say({"pid": pid})
        while living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            living.discard(pid)
            _say({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _become(order: Mapping[str, Any]) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
    sys.argv = ["python -m oban_sa.runner", *order["arguments"]]
    code: object = 1
    try:
        from oban_sa.runner.__main__ import main as command

        command()
        code = 0
    except SystemExit as left:
        code = left.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _say(what: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
