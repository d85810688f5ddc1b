"""Where code is: the stack of a coroutine, a thread or this process, as Python shows a traceback."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from oban_sa.runner.concurrency.tracebacks import PACKAGE

MOST: Final = 20_000
"""Characters of a stack; of a longer one the innermost calls are kept."""


def of_task(task: asyncio.Task[object]) -> str:
    """The stack of a task that waits, the innermost call last; what it awaits is a part of it, other tasks are not."""
    # `Task.get_stack` knows the outermost coroutine alone.
    return _shown(list(_awaited(task.get_coro())))


def frame_of(thread_id: int) -> FrameType | None:
    """Return the innermost frame of a thread of this process, or None where there is no such thread."""
    # Documented, and named so only because it is meant for tools such as this.
    return sys._current_frames().get(thread_id)  # pyright: ignore[reportPrivateUsage]


def of_thread(thread_id: int) -> str:
    """The stack of a thread of this process; empty where there is none."""
    frame = frame_of(thread_id)
    return "" if frame is None else _shown(list(traceback.walk_stack(frame))[::-1])


def _awaited(step: Any) -> Iterator[tuple[FrameType, int]]:
    while step is not None:
        for kind in ("cr", "gi", "ag"):
            frame: FrameType | None = getattr(step, f"{kind}_frame", None)
            if frame is not None:
                yield frame, frame.f_lineno
                step = getattr(step, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
                break
        else:
            return


def _shown(frames: list[tuple[FrameType, int]]) -> str:
    # How the runner got to the worker's code is of no interest; what that calls of ours in its turn is.
    first = next((index for index, (frame, _) in enumerate(frames) if _users(frame)), 0)
    text = "".join(traceback.format_list(traceback.StackSummary.extract(iter(frames[first:])))).rstrip()
    return text if len(text) <= MOST else f"...\n{text[-MOST:]}"


def _users(frame: FrameType) -> bool:
    """Whether a frame is neither ours nor Python's own."""
    file = frame.f_code.co_filename
    return not file.startswith((PACKAGE, "<")) and not file.startswith(os.path.dirname(os.__file__) + os.sep)
