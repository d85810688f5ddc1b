"""Measure from a thread whether the event loop turns, and name the job or the line of code that blocks it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sysconfig
import threading
from collections.abc import Callable
from contextvars import Context
from types import FrameType
from typing import Final, NamedTuple

from oban_sa import telemetry
from oban_sa.describe.job_facts import job_facts
from oban_sa.models import Job
from oban_sa.runner.concurrency.frames import frame_of
from oban_sa.runner.concurrency.tracebacks import PACKAGE
from oban_sa.runner.concurrency.wait import joined
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.workers.current import current_job

logger = logging.getLogger("oban_sa.runner")

LOOKS: Final = 0.05
"""Seconds that a late answer may take more: where the whole process stood still, the loop answers at once now."""


class Watch:
    """Asks the loop for an answer again and again, from a thread of its own.

    When none comes for `after` seconds, it logs once which job, or which code, blocks the loop, and when the loop turns
    again it emits `oban.runner.lag` there. `concerns` returns whether a job is one of this runner's, since several
    runners may share a loop.
    """

    def __init__(self, *, after: float, source: telemetry.Source, concerns: Callable[[Job], bool]) -> None:
        self._after = after
        self._source = source
        self._concerns = concerns
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._asked_at = 0.0
        self._answered = threading.Event()
        self._lag = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lag(self) -> float:
        """How many seconds the loop took to answer last, or has been taking up to now."""
        waiting = 0.0 if self._answered.is_set() else clock.monotonic() - self._asked_at
        return max(self._lag, waiting)

    async def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._answered.set()
        self._thread = threading.Thread(target=self._run, args=(self._loop,), name="oban_sa watch", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Watch no more."""
        self._stop.set()
        if self._thread is not None:
            await joined([self._thread], 5)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            self._answered.clear()
            self._asked_at = clock.monotonic()
            try:
                loop.call_soon_threadsafe(self._answered.set)
            except RuntimeError:  # the loop is closed
                return
            blocked: Blocked | None = None
            # Twice: where the whole process stood still, the loop answers now, and no code has blocked it.
            if not self._answered.wait(self._after) and not self._answered.wait(LOOKS):
                blocked = self._found(loop)
                self._say(blocked)
            while not self._answered.wait(0.5):
                if loop.is_closed():
                    return
            self._lag = clock.monotonic() - self._asked_at
            if blocked is not None and self._concerned(blocked):
                self._tell(loop, blocked)
            self._stop.wait(min(self._after / 2, 0.5))

    def _found(self, loop: asyncio.AbstractEventLoop) -> Blocked:
        """What the loop does now. All of it may change while it is read."""
        task = asyncio.current_task(loop)
        frame = frame_of(self._loop_thread)
        return Blocked(
            job=None if task is None else _job_of(task),
            task=None if task is None else task.get_name(),
            place=None if frame is None else place(frame),
        )

    def _concerned(self, blocked: Blocked) -> bool:
        return blocked.job is None or self._concerns(blocked.job)

    def _say(self, blocked: Blocked) -> None:
        if not self._concerned(blocked):
            return
        job, span = blocked.job, describe(clock.monotonic() - self._asked_at)
        at = f" at {blocked.place}" if blocked.place else ""
        if job is None:
            what = f"by the task {blocked.task!r}" if blocked.task else "by code outside of any task"
            logger.warning("the event loop has been blocked for %s %s%s", span, what, at)
            return
        logger.warning(
            "the event loop has been blocked for %s by job %s %s%s; meanwhile no other job gets on. "
            "Let it await what it waits for, or write def instead of async def to run it in a thread",
            span,
            job.id,
            job.worker,
            at,
            extra=job_facts(job),
        )

    def _tell(self, loop: asyncio.AbstractEventLoop, blocked: Blocked) -> None:
        job = blocked.job
        event = telemetry.RunnerLag(
            runner=self._source,
            lag=self._lag,
            place=blocked.place,
            task=blocked.task,
            job_id=None if job is None else job.id,
            worker=None if job is None else job.worker,
        )
        try:
            loop.call_soon_threadsafe(telemetry.emit, event)
        except RuntimeError:
            return


class Blocked(NamedTuple):
    """What blocks the loop: a job where it is known, the name of a task, and a line of code."""

    job: Job | None
    task: str | None
    place: str | None


def place(frame: FrameType) -> str:
    """Return `file:line in function` of the innermost code that is the user's own, else the innermost of all."""
    chain: list[FrameType] = []
    step: FrameType | None = frame
    while step is not None:
        chain.append(step)
        step = step.f_back
    for foreign in (_INSTALLED + _STANDARD, _STANDARD):
        for each in chain:
            file = each.f_code.co_filename
            if not file.startswith(("<", PACKAGE)) and not _within(file, foreign):
                return _shown(each)
    return _shown(frame)


def _shown(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"


def _within(file: str, folders: tuple[str, ...]) -> bool:
    return any(file.startswith(folder) for folder in folders) and not (
        folders is _STANDARD and _within(file, _INSTALLED)
    )


def _folders(*names: str) -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) + os.sep for name in names})


_INSTALLED: Final = _folders("purelib", "platlib")
# Where packages are installed may be a folder of the standard library's.
_STANDARD: Final = _folders("stdlib", "platstdlib")


def _job_of(task: asyncio.Task[object]) -> Job | None:
    context = _context_of(task)
    try:
        return None if context is None else context.run(current_job)
    except (LookupError, RuntimeError):
        return None


def _context_of(task: asyncio.Task[object]) -> Context | None:
    """Return a copy of the context that a task runs in, so that it can be looked into while the task is running."""
    get_context: Callable[[], Context] | None = getattr(task, "get_context", None)
    if get_context is not None:
        return get_context().copy()
    # Python 3.11 keeps it to itself.
    contexts = [each for each in gc.get_referents(task) if isinstance(each, Context)]
    return contexts[0].copy() if contexts else None
