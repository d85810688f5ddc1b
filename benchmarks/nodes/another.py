"""Another process of the same contender: an application, or a node. It answers in lines, as turns do."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from benchmarks.turn import Turn


class Another:
    """A process that was started, and its answers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.stdin = process.stdin
        self._stdout = process.stdout
        self._process = process

    async def answer(self, word: str, *, within: float = 60.0) -> Any:
        """Wait for the next line that has this word, and return what stands there; other lines are left out."""
        while line := await asyncio.wait_for(self._stdout.readline(), within):
            if line.startswith(b"{") and word in (said := json.loads(line)):
                return said[word]
        raise SystemExit(f"a process ended before it answered with {word!r}")

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        return await asyncio.wait_for(self._process.wait(), 60)


@asynccontextmanager
async def another(turn: Turn, kind: str, **options: Any) -> AsyncIterator[Another]:
    """Start this program once more, for another kind of turn; it is killed at the end of the block.

    It leads a session of the system's, so that the processes that it starts are counted and killed with it.
    """
    module = sys.modules["__main__"].__spec__
    assert module is not None, "turns are taken by modules"
    words = ["-m", module.name, json.dumps({**turn.options, **options, "kind": kind})]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
        start_new_session=True,
    )
    try:
        yield Another(process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
