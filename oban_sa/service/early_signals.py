"""What signals do to a command from its first line on, while it imports what it consists of.

The system gives no default to the first process (PID 1): a signal that it has no handler for is dropped, and the
program that stops the container waits in vain. To import this package takes a second, in which nothing has begun that
had to end, and Ctrl-C would print the traceback of an import.
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


def is_command(command: Sequence[str]) -> bool:
    """Whether these words, Python's name first, start one of our commands."""
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "") in ("oban_sa", "oban_sa.runner")
        if word in ("-X", "-W"):
            next(words, "")
        elif not word.startswith("-"):
            return os.path.basename(word) == "oban-sa"
    return False


INTERRUPTED: Final = 130
"""The exit code of what Ctrl-C ended, as a shell has it."""


class Interrupted(SystemExit):
    """Ctrl-C came while nothing else was said about it: the command ends without a traceback."""


def _hear_interrupts() -> None:
    if threading.current_thread() is not threading.main_thread() or not is_command(sys.orig_argv):
        return
    # Not where Ctrl-C is ignored, as in the background of a shell.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(_number: int, _frame: FrameType | None) -> None:
    # Nothing was begun, and an exception might be taken by the module that is being imported.
    os._exit(INTERRUPTED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise Interrupted(INTERRUPTED)


def begun() -> None:
    """From now on Ctrl-C ends the command with `Interrupted`, so that what it has begun is ended as well."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, _interrupt)


_hear_interrupts()

heard: Final = _hear()
"""Whether this process is such a runner."""
