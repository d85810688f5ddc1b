"""Running the loop until the work is done, also where the code of a job would end the loop before."""

from __future__ import annotations

import asyncio
import logging
import os
from types import TracebackType
from typing import Any, Final, TypeVar

from oban_sa.runner.command.stopping import Stopped

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")


def completed(loop: asyncio.AbstractEventLoop, work: asyncio.Future[T]) -> T:
    """Run the loop until `work` is done, and return its result or raise its error.

    `sys.exit()` in a task that a job started, or in a callback, ends asyncio's loop after it has been noted as the
    task's own error; whoever awaits the task, such as `gather`, gets it. The loop has lost nothing, and is run again.
    """
    while True:
        try:
            return loop.run_until_complete(work)
        except (SystemExit, KeyboardInterrupt) as error:
            if work.done() or isinstance(error, Stopped) or _from_the_runner(error.__traceback__):
                raise
            # Only the first line of what was raised: it's no error of this runner's.
            logger.warning(
                "code of a job raised %s on the event loop, in a task or a callback of its own; the runner goes on%s",
                _named(error),
                _place(error.__traceback__),
            )


_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def _from_the_runner(traceback: TracebackType | None) -> bool:
    """Whether it was raised below the runner's own code, so that a part of the runner has ended with it.

    What a job's own code raises, in the task of the attempt, is an answer and doesn't come here.
    """
    return any(name != __file__ and name.startswith(_PACKAGE) for name, _ in _steps(traceback))


def _steps(traceback: TracebackType | None) -> list[tuple[str, int]]:
    steps: list[tuple[str, int]] = []
    while traceback is not None:
        steps.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return steps


def _place(traceback: TracebackType | None) -> str:
    steps = _steps(traceback)
    return f': File "{steps[-1][0]}", line {steps[-1][1]}' if len(steps) > 1 else ""


def _named(error: BaseException) -> str:
    arguments: tuple[Any, ...] = error.args
    return f"{type(error).__name__}({', '.join(map(repr, arguments))})"
