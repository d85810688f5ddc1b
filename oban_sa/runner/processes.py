"""Processes for code that keeps a processor busy."""

from __future__ import annotations

import asyncio
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
            return await loop.run_in_executor(self._pool, _run, function, *arguments)
        except BaseException as error:
            self.broken = type(error).__name__ == "BrokenProcessPool"
            raise

    def kill(self) -> None:
        # By the child itself, not by its number, which may be another process's once the child has died.
        for process in multiprocessing.active_children():
            if process.pid == self._pid:
                process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _begin(parent: int, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    # Ctrl-C and some supervisors' SIGTERM reach every process; the runner decides what they mean for running jobs.
    # Not SIG_IGN, which programs that a job starts would inherit.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _unimpressed)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _unimpressed(number: int, frame: object) -> None:
    pass


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:  # a future refuses it, and whoever awaits it would wait for ever
        raise RuntimeError("the code raised StopIteration") from error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
