"""Run the loop until the work is done, even if code of a job raises SystemExit on it."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TypeVar, cast

from oban_sa.runner.concurrency.tracebacks import PACKAGE
from oban_sa.service.signals import Stopped

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")


def completed(loop: asyncio.AbstractEventLoop, work: asyncio.Future[T]) -> T:
    """Run the loop until `work` is done, and return its result or raise its error.

    `sys.exit()` in a callback or in a task that a job started stops asyncio's loop. The task has its error by then, so
    `await` and `gather` get it, and the loop can be run again.
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
                f"{type(error).__name__}({', '.join(map(repr, cast('tuple[object, ...]', error.args)))})",
                _place(error.__traceback__),
            )


def _from_the_runner(traceback: TracebackType | None) -> bool:
    """Whether it was raised below the runner's own code, so that a part of the runner has ended with it.

    What a job's own code raises, in the task of the attempt, is an answer and doesn't come here.
    """
    return any(name != __file__ and name.startswith(PACKAGE) for name, _ in _steps(traceback))


def _steps(traceback: TracebackType | None) -> list[tuple[str, int]]:
    steps: list[tuple[str, int]] = []
    while traceback is not None:
        steps.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return steps


def _place(traceback: TracebackType | None) -> str:
    steps = _steps(traceback)
    return f': File "{steps[-1][0]}", line {steps[-1][1]}' if len(steps) > 1 else ""
