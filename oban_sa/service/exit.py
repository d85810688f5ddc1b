"""End a runner's process, even if jobs left tasks or threads that can not be stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from typing import Final

from oban_sa.service.run_loop import completed

logger = logging.getLogger("oban_sa.runner")

PATIENCE: Final = 0.2
"""Seconds that tasks and threads of jobs have to end after the runner."""

stuck: Final = threading.Event()
"""Set once a task or thread of a loop did not end; then only `os._exit` ends the process."""


def closed(runner: asyncio.Runner) -> bool:
    """Close the loop and return True; False, with the loop left open, if a task or thread did not end."""
    loop = runner.get_loop()
    if completed(loop, loop.create_task(_ended())):
        runner.close()
        return True
    loop.set_exception_handler(lambda _loop, _context: None)  # that tasks are lost with it is known
    stuck.set()
    return False


def leave(code: int = 0) -> None:
    """End the process with this exit code without waiting for its threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def leave_if_stuck(ended: BaseException | None) -> None:
    """End the process if it is stuck and `ended` is a SystemExit: a running thread would keep it alive."""
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
