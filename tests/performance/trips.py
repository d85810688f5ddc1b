"""Which files of the package are entered while something happens, counted by a profile function."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import oban_sa

FLOWS = os.path.join("outbox", "flow.py")
"""Listens to all sessions of a program that has enqueued a workflow, as other tests of this process may have."""

PACKAGE = os.path.dirname(os.path.abspath(oban_sa.__file__)) + os.sep


class Trip:
    """The files of the package in which a function began, and how many calls there were, between `begin` and `end`.

    With `since` it begins by itself, at the next call of a function of that name after `await_start`.
    """

    def __init__(self, since: str | None = None) -> None:
        self.files: set[str] = set()
        self.calls = 0
        self._since = since
        self._awaited: str | None = None
        self._under_way = False

    def await_start(self) -> None:
        """Begin at the next call of the function `since`."""
        self._awaited = self._since

    def begin(self) -> None:
        """Count from here on, and nothing of what was before."""
        self.files.clear()
        self.calls = 0
        self._under_way = True

    def end(self) -> None:
        """Count no more."""
        self._under_way = False

    def _called(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if frame.f_code.co_filename.endswith(FLOWS):
            return
        if self._awaited is not None and frame.f_code.co_name == self._awaited:
            self._awaited = None
            self.begin()
        if self._under_way and not _apart():
            self.files.add(frame.f_code.co_filename.removeprefix(PACKAGE))
            self.calls += 1

    def __str__(self) -> str:
        return f"{len(self.files)} files, {self.calls} calls: {', '.join(sorted(self.files))}"


def _apart() -> bool:
    """Whether this is a task or a thread of the runner's own: a part that ticks, whose work no job waits for."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread
        return threading.current_thread().name.startswith("oban_sa ")
    name = "" if task is None else task.get_name()
    return name.startswith("oban_sa ") and not name.startswith("oban_sa producer ")


@contextmanager
def counted(since: str | None = None) -> Iterator[Trip]:
    """Count what is entered by this thread, and by each that is started inside of the block.

    A coroutine that is resumed counts as a call again. Modules that are only imported don't count, nor do the parts of
    a runner that tick by themselves, in tasks and threads of their own. The producer's task does.
    """
    trip = Trip(since)
    former, formerly_in_threads = sys.getprofile(), threading.getprofile()
    threading.setprofile(trip._called)
    sys.setprofile(trip._called)
    try:
        yield trip
    finally:
        sys.setprofile(former)
        threading.setprofile(formerly_in_threads)
