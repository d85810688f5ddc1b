"""Say that this node lives, from a thread of its own: code that blocks the loop makes a node slow, not dead."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from uuid import UUID

from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.runner.cluster.attempt_age import Young
from oban_sa.runner.concurrency.wait import joined
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared
from oban_sa.sql.producers import ProducerRow, beat, register

logger = logging.getLogger("oban_sa.runner")


class Heartbeat:
    """Beats for all producers of a runner, at once and then every `every` seconds.

    `rows` returns the producers' rows and is called in the thread. A row that is gone is written again, and `lost` is
    called on the runner's loop: other nodes took this one for dead, or the tables were emptied.
    """

    def __init__(
        self,
        database: Callable[[], Database],
        *,
        every: float,
        rows: Callable[[], Sequence[ProducerRow]],
        lost: Callable[[list[UUID]], None],
        young: Young | None = None,
    ) -> None:
        """`young` keeps long attempts young, after each beat."""
        self._database = database
        self._every = every
        self._rows = rows
        self._lost = lost
        self._young = young
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Begin to beat."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="oban_sa heartbeat", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        if self._thread is not None:
            await joined([self._thread], 5)

    def _run(self) -> None:
        # A plain asyncio loop, also where the runner's is another one: nothing here is in a hurry.
        with asyncio.Runner() as runner:
            database = self._database()
            line = database.line()
            beats, registers = database.prepare(beat), database.prepare(register)
            failures, rest = 0, 0.0
            while not self._stop.wait(rest):
                try:
                    runner.run(self._once(line, beats, registers))
                    if self._young is not None and not self._stop.is_set():
                        runner.run(self._young.beat(database, line, within=max(self._every / 2, 1)))
                except Exception as error:
                    failures += 1
                    rest = min(backoff.retrying(failures), self._every)
                    if failures == 1:
                        logger.warning("a heartbeat failed (%s) and is tried again", describe(error))
                else:
                    failures, rest = 0, self._every
            runner.run(line.close())

    async def _once(self, line: Line, beats: Prepared, registers: Prepared) -> None:
        if self._loop is not None and self._loop.is_closed():
            # The loop ended without stopping the runner. No job runs here any more; others may rescue what is left.
            self._stop.set()
            return
        rows = {row["uuid"]: row for row in self._rows()}
        if not rows:
            return
        found = {row["uuid"] for row in await line.fetch(beats, max(self._every, 5), uuids=list(rows))}
        # Not a producer that has removed its row itself meanwhile: it is no longer among the rows by now.
        still = {row["uuid"] for row in self._rows()}
        gone = [uuid for uuid in rows if uuid in still and uuid not in found]
        for uuid in gone:
            await line.fetch(registers, **rows[uuid])
        if gone and self._loop is not None and not self._stop.is_set():
            self._loop.call_soon_threadsafe(self._lost, gone)
