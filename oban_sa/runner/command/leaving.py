"""The end of a runner's process, also where jobs left behind what nobody can stop."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from typing import Final

from oban_sa.runner.command.completing import completed

logger = logging.getLogger("oban_sa.runner")

PATIENCE: Final = 0.2
"""Seconds that tasks and threads which outlived the runner have to end."""

stuck: Final = threading.Event()
"""Set once something on a loop of this process refused to end: the process has to be ended with it."""


def closed(runner: asyncio.Runner) -> bool:
    """Close the loop and return True; where something on it refuses to end, leave it, never to run again: False."""
    loop = runner.get_loop()
    if completed(loop, loop.create_task(_ended())):
        runner.close()
        return True
    loop.set_exception_handler(lambda _loop, _context: None)  # that tasks are lost with it is known
    stuck.set()
    return False


def leave(code: int = 0) -> None:
    """End the process as one that stopped cleanly, or with another exit code, whatever its threads still do."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_if_stuck(ended: BaseException | None) -> None:
    """Let a command really end that exits with `ended`: a thread that can't be stopped would keep its process alive."""
    if stuck.is_set() and isinstance(ended, SystemExit):
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))


async def _ended() -> bool:
    """Whether every task, and every thread of the loop's own executor, has ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    stubborn = (await asyncio.wait(tasks, timeout=PATIENCE))[1] if tasks else set[asyncio.Task[object]]()
    threads = asyncio.ensure_future(asyncio.get_running_loop().shutdown_default_executor())
    _, busy = await asyncio.wait([threads], timeout=PATIENCE)
    if stubborn:
        logger.warning("%d tasks that jobs had started, or jobs themselves, ignored their cancellation", len(stubborn))
    if busy:
        logger.warning("threads that jobs had started with asyncio.to_thread still run, and end with this process")
    if stubborn or busy:
        return False
    # By what closes the loop too, but there nothing that they raise may come out.
    await asyncio.get_running_loop().shutdown_asyncgens()
    return True
