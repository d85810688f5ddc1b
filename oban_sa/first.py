"""SIGTERM for a runner that is the first process of a container, from its first line on.

The system gives no default to the first process (PID 1): a signal that it has no handler for is dropped, and whoever
stops the container waits in vain. To import this package takes a second, in which nothing has begun that had to end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Final


def is_runner(command: Sequence[str]) -> bool:
    """Whether these words, Python's name first, start the command that works on jobs."""
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            module = next(words, "")
            return module == "oban_sa.runner" or (module == "oban_sa" and next(words, "") in _NAMES)
        if word in ("-X", "-W"):
            next(words, "")
        elif not word.startswith("-"):
            return os.path.basename(word) == "oban-sa" and next(words, "") in _NAMES
    return False


_NAMES: Final = ("runner", "run")


def _hear() -> bool:
    if os.getpid() != 1 or threading.current_thread() is not threading.main_thread():
        return False
    if not is_runner(sys.orig_argv) or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _end)
    return True


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


heard: Final = _hear()
"""Whether this process is such a runner."""
