"""Jobs that one producer holds for chunks: a chunk takes one slot, and as many jobs as its worker wants at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import asyncpg

from oban_sa.errors import InvalidJob
from oban_sa.runner.database.errors import is_away
from oban_sa.runner.execution.attempt import Running
from oban_sa.schedule import clock

if TYPE_CHECKING:
    from oban_sa.runner.execution.chunk import ChunkRun
    from oban_sa.runner.queue.exchange import Tables

logger = logging.getLogger("oban_sa.runner")

LOOKS: Final = 10
"""Fetches in the time that a chunk waits for jobs, unless that makes their pauses too short or too long."""

AT_LEAST: Final = 0.02
AT_MOST: Final = 1.0
"""Seconds between two of these."""

_Of: TypeAlias = tuple[str, str | None]


class _Open:
    """A chunk that waits for jobs."""

    def __init__(self, chunk: ChunkRun, room: int) -> None:
        self.chunk = chunk
        self.room = room
        self.full = asyncio.Event()
        self.settled = asyncio.Event()
        """Whether no fetch is under way, which may bring as many jobs as there is room for."""

    def add(self, attempt: Running) -> None:
        self.chunk.add(attempt)
        self.room -= 1
        if self.room <= 0:
            self.full.set()


class Gathering:
    """Fetches jobs for chunks, and holds them until the chunk has ended.

    A job that this producer has fetched for another slot joins a chunk of its worker and key that still waits, so that
    a queue with many slots makes large chunks, too.
    """

    def __init__(
        self, tables: Tables, *, attempt: Callable[[asyncpg.Record], Running], refuses: Callable[[], bool]
    ) -> None:
        """`attempt` makes one of a row that was fetched; a chunk waits no longer once this producer `refuses` jobs."""
        self.held: dict[int, Running] = {}
        """The attempts that were added to chunks, by the ids of their jobs."""
        self._tables = tables
        self._attempt = attempt
        self._refuses = refuses
        self._open: dict[_Of, _Open] = {}

    async def gather(self, chunk: ChunkRun) -> None:
        """Add jobs to a chunk that begins; or have its first job join another one, which is its chunk then."""
        first, options = chunk.first, chunk.definition.options.chunk
        # A job of a sequence has its turn, which is over when its attempt is.
        if options is None or options.size == 1 or first.names_sequence:
            return
        try:
            job = first.job
            by = options.by
            key = None if by is None else by.key(job.worker, job.args, job.meta, what="by")
        except InvalidJob:  # a value is missing, or makes no key: it stays alone
            return
        of: _Of = (chunk.definition.name, key)
        while (other := self._open.get(of)) is not None and other.room > 0:
            if other.settled.is_set():
                self.held[job.id] = first
                other.add(first)
                return
            await other.settled.wait()
        waiting = self._open[of] = _Open(chunk, options.size - 1)
        names = [chunk.definition.name, *chunk.definition.aliases]
        ends_at = clock.monotonic() + options.within
        try:
            while waiting.room > 0 and not self._refuses():
                waiting.settled.clear()
                fetching = asyncio.ensure_future(self._tables.fetch_chunk(names, key, by, waiting.room))
                # Not interrupted: what it has fetched would be held without being known.
                try:
                    rows = await asyncio.shield(fetching)
                except asyncio.CancelledError:
                    self._hold(waiting, await fetching)
                    raise
                self._hold(waiting, rows)
                waiting.settled.set()
                await asyncio.sleep(0)  # those that waited for this fetch join now, if there is still room
                left = ends_at - clock.monotonic()
                if waiting.room <= 0 or left <= 0:
                    return
                pause = min(left, max(min(options.within / LOOKS, AT_MOST), AT_LEAST))
                try:
                    async with asyncio.timeout(pause):
                        await waiting.full.wait()
                except TimeoutError:
                    pass
        except Exception as error:
            # The jobs that there are can be done. What the statement may have fetched is found as any lost answer is.
            level = logging.DEBUG if is_away(error) else logging.WARNING
            logger.log(level, "a chunk of %s begins without further jobs: %s", chunk.definition.name, error)
        finally:
            if self._open.get(of) is waiting:
                del self._open[of]
            waiting.settled.set()

    def _hold(self, waiting: _Open, rows: list[asyncpg.Record]) -> None:
        for row in rows:
            attempt = self._attempt(row)
            self.held[attempt.attempt.job_id] = attempt
            waiting.add(attempt)

    def end(self, chunk: ChunkRun, first: Running) -> Iterator[Running]:
        """Let go of the jobs of a chunk whose `first` attempt has ended: those that were still held."""
        if chunk.first is not first:
            return
        for each in chunk.added:
            job_id = each.attempt.job_id
            if self.held.get(job_id) is each:
                del self.held[job_id]
                yield each
