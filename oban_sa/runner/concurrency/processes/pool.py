"""Processes for code that keeps a processor busy."""

from __future__ import annotations

import asyncio
import logging
import os
import warnings
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.runner.concurrency.timeout import TimeLimit
from oban_sa.workers.definition import Definition

if TYPE_CHECKING:
    from oban_sa.runner.concurrency.processes.child import Child
    from oban_sa.runner.concurrency.processes.protocol import Plan
    from oban_sa.runner.concurrency.processes.questions import Journalling

END_WITHIN: Final = 2.0
"""Seconds that are waited for processes which were killed."""


class Processes:
    """Child processes, each running one call at a time; one that is killed or crashes takes only its own call along.

    At most `limit` run at once, by default as many as there are processors; more calls wait for a free one, in turn.
    Processes are started when they are needed and kept. One that has run `recycle_after` calls is replaced. Each
    imports the modules in `imports` before its first call.
    """

    def __init__(
        self, *, limit: int | None = None, recycle_after: int | None = None, imports: Iterable[str] = ()
    ) -> None:
        for name, value in (("process_pool", limit), ("recycle_after", recycle_after)):
            if value is not None and value < 1:
                raise InvalidOption(f"{name} is a whole number of at least 1, or None, not {value!r}")
        self._room = asyncio.Semaphore(limit or processors())
        self._recycle_after = recycle_after
        self._imports = tuple(imports)
        self._free: list[Child] = []
        self._all: set[Child] = set()

    async def call(
        self,
        definition: Definition,
        job: Job,
        *,
        time_limit: TimeLimit | None = None,
        attempt: Journalling | None = None,
    ) -> object:
        """Run a worker's code in a process and return its answer, or raise what it raised.

        The seconds of `time_limit` count from the moment the code begins. When they are over, or the caller is
        cancelled, the code is interrupted, and its process is killed where that doesn't end it within a second. What
        the code went on after is noted in `time_limit`. Durable steps of the code are written into the journal of
        `attempt`. Raises `AttemptCrashed` where the process died, and
        `AttemptError` where none could be started.
        """
        from oban_sa.runner.concurrency.processes.child import NotBegun  # most runners never need a process

        loop = asyncio.get_running_loop()
        within = None if time_limit is None else time_limit.seconds
        async with self._room:
            while True:
                child = await self._one()
                used = child.calls > 0
                job.when_asked_to_stop(partial(loop.call_soon_threadsafe, child.ask_to_stop))
                try:
                    row = _row(job)
                    answer = await child.call(definition.name, definition.module, row, within=within, attempt=attempt)
                    if time_limit is not None:
                        time_limit.ignored = child.ignored
                    return answer
                except NotBegun:
                    if not used:
                        raise child.crashed(definition.name) from None
                    continue  # it had died since its last call; nothing of this one has happened
                finally:
                    job.when_asked_to_stop(None)
                    self._release(child)

    async def stack(self, job: Job) -> str | None:
        """Return where the code of a job is that runs in one of them; None where none runs it."""
        for child in self._all:
            if child.works_on(job):
                try:
                    return await child.stack()
                except TimeoutError:
                    return "  its process does not answer: code that holds the interpreter, as some written in C does"
        return None

    async def close(self) -> None:
        """End all processes, those at work included."""
        children = list(self._all)
        for child in children:
            child.kill()
        if children:
            await asyncio.wait([asyncio.ensure_future(child.gone()) for child in children], timeout=END_WITHIN)

    async def _one(self) -> Child:
        while self._free:
            child = self._free.pop()
            if child.usable:
                return child
        from oban_sa.runner.concurrency.processes.child import Child

        child = Child(_plan(self._imports), ended=self._ended)
        self._all.add(child)
        await child.start()
        return child

    def _release(self, child: Child) -> None:
        if child.usable and (self._recycle_after is None or child.calls < self._recycle_after):
            self._free.append(child)
        else:
            child.leave()

    def _ended(self, child: Child) -> None:
        self._all.discard(child)
        if child in self._free:
            self._free.remove(child)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def _plan(imports: tuple[str, ...]) -> Plan:
    from oban_sa.runner.concurrency.processes.protocol import Plan

    loggers = logging.root.manager.loggerDict.items()
    levels = {name: each.level for name, each in loggers if isinstance(each, logging.Logger) and each.level}
    return Plan(
        parent=os.getpid(),
        imports=imports,
        levels={"root": logging.root.level, **levels},
        disabled=logging.root.manager.disable,
        warnings=getattr(warnings.showwarning, "__module__", "") == "logging",
    )


def _row(job: Job) -> dict[str, object]:
    """What crosses to another process: the row's values, never the live object."""
    return {column.key: getattr(job, column.key) for column in Job.__table__.columns}
