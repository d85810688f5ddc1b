"""Processes for code that keeps a processor busy."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


class Processes:
    """Child processes, each running one call at a time; one that is killed or crashes takes only its own call along."""

    def __init__(self) -> None:
        # Spawned, never forked: this process has threads and an event loop, and a fork would copy their locks.
        self._context = multiprocessing.get_context("spawn")
        self._free: list[_Child] = []

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a picklable function in a child and return its answer; cancelling the caller kills the child."""
        child = self._free.pop() if self._free else _Child(self._context)
        try:
            answer = await child.run(function, *arguments)
        except asyncio.CancelledError:
            child.kill()
            raise
        except BaseException:
            if child.broken:
                child.kill()
            else:
                self._free.append(child)
            raise
        self._free.append(child)
        return answer

    def close(self) -> None:
        """End the children that are free; those at work were ended by the cancellation of their callers."""
        while self._free:
            self._free.pop().kill()


class _Child:
    def __init__(self, context: Any) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=context, initializer=_begin, initargs=(os.getpid(), dict(os.environ))
        )
        self._pid: int | None = None
        self.broken = False

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            if self._pid is None:
                self._pid = await loop.run_in_executor(self._pool, os.getpid)
            return await loop.run_in_executor(self._pool, function, *arguments)
        except BaseException as error:
            self.broken = type(error).__name__ == "BrokenProcessPool"
            raise

    def kill(self) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        self._pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # Ctrl-C reaches the whole process group; the runner decides what it means for running jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
