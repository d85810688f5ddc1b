"""A drain by one process or by several that share one table: who did what, from when to when."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from benchmarks.turn import Turn, loop_factory


@dataclass
class Share:
    """What one process did: which jobs, and its clock at the first fetch and at the last written outcome.

    `cycles` are the milliseconds of each statement that wrote outcomes, with those in which it waited for its turn.
    """

    executed: list[int] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    cpu: float = 0.0

    def began(self, moment: float) -> None:
        """Note the moment of the first fetch."""
        if not self.first:
            self.first, self.cpu = moment, -time.process_time()

    def ended(self) -> None:
        """Note that outcomes were written just now."""
        self.last = time.perf_counter()

    def over(self) -> None:
        """Note that there is nothing left to do."""
        self.cpu += time.process_time()


class Progress:
    """How many outcomes are written and workflows over, by all processes together."""

    def __init__(self, wanted: int, shared: Any = None) -> None:
        self._wanted = wanted
        self._shared = shared
        self._written = 0
        self._over = asyncio.Event()

    def add(self, count: int) -> None:
        if self._shared is None:
            self._written += count
            if self._written >= self._wanted:
                self._over.set()
            return
        with self._shared.get_lock():
            self._shared.value += count

    async def over(self) -> None:
        """Wait until every outcome is written."""
        if self._shared is None:
            await self._over.wait()
            return
        while self._shared.value < self._wanted:  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


Work = Callable[[dict[str, Any], Progress, Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, Share]]
"""Prepare, wait for the word, and work until all is done."""


async def drained(turn: Turn, work: Work, *, flows: int = 0) -> None:
    """Let the work be done by as many processes as the options say, and answer with what they did together.

    It is done once the outcomes of all jobs are written and so many `flows` are over. With the option `cycles` the
    answer has those of all processes as samples.
    """
    processes = turn.options.get("processes", 1)
    options = {**turn.options, "outcomes": turn.jobs + flows}
    if processes == 1:

        async def go() -> None:
            turn.ready()

        shares = [await work(options, Progress(options["outcomes"]), go)]
    else:
        shares = await asyncio.to_thread(_together, turn, work, options, processes)
    turn.once([number for share in shares for number in share.executed])
    busy = [share for share in shares if share.executed]
    turn.done(
        seconds=max(share.last for share in busy) - min(share.first for share in busy),
        cpu=sum(share.cpu for share in shares),
        shares=[len(share.executed) for share in shares],
        **({"samples": [each for share in shares for each in share.cycles]} if options.get("cycles") else {}),
    )


def _together(turn: Turn, work: Work, options: dict[str, Any], processes: int) -> list[Share]:
    context = multiprocessing.get_context("spawn")
    written, word, done, prepared = context.Value("q", 0), context.Event(), context.Queue(), context.Queue()
    children = [
        context.Process(target=_child, args=(work, options, written, prepared, word, done), daemon=True)
        for _ in range(processes)
    ]
    for child in children:
        child.start()
    for _ in children:
        prepared.get(timeout=60)
    turn.ready()
    word.set()
    shares = [done.get(timeout=600) for _ in children]
    for child in children:
        child.join(timeout=30)
    return shares


def _child(work: Work, options: dict[str, Any], written: Any, prepared: Any, word: Any, done: Any) -> None:
    async def go() -> None:
        prepared.put(True)
        await asyncio.to_thread(word.wait)

    async def run() -> Share:
        return await work(options, Progress(options["outcomes"], written), go)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        done.put(runner.run(run()))
