"""Let sequences go on that no node let go on: where a job was cancelled, deleted, or run by another program."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from oban_sa import telemetry
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.sql.notify import NOTIFY, insertions
from oban_sa.sql.sequences import sweep

EVERY: Final = 1.0
"""Seconds between two looks while there are sequences."""

NONE_EVERY: Final = 5.0
"""Seconds between two looks where there are none."""

SWEPT: Final = 2_000
"""Sequences that one look goes through; where there are more, the next look goes on from there."""


class Sequences:
    """The leader's look for sequences whose next job was parked and may run.

    A node that ends a job of a sequence lets the next one go on itself. Only where it died before it could, or where no
    node of ours ended the job, this is what finds it. It tells of sequences that are halted, and of those that go on.
    """

    def __init__(
        self, database: Database, leader: Leader, *, source: telemetry.Source, released: Callable[[str], None]
    ) -> None:
        """`released` is called with a queue that has got jobs to fetch."""
        self._line = database.shared
        self._sweep = database.prepare(sweep)
        self._announcing = database.prepare(NOTIFY)
        self._leader = leader
        self._source = source
        self._released = released
        self._after = ("", "")
        self._halted: dict[tuple[str, str], int] = {}
        """The sequences that were told of as halted, with the jobs that did it."""
        self._found: set[tuple[str, str]] = set()
        """Those that were found since the looks began anew."""

    async def tick(self) -> float:
        """Look once, where this node leads: seconds until the next look."""
        if not self._leader.leading:
            self._after = ("", "")
            self._halted.clear()
            self._found.clear()
            return EVERY
        queue, key = self._after
        [found] = await self._line.fetch(self._sweep, after_queue=queue, after_key=key, limit=SWEPT)
        if queues := found["queues"]:
            await self._line.fetch(self._announcing, **insertions(queues, self._source.schema))
            for each in queues:
                self._released(each)
        whole = found["seen"] < SWEPT
        self._tell(found["halted"], whole=whole)
        self._after = ("", "") if whole else (found["last_queue"], found["last_key"])
        if queues and not whole:
            return 0
        return EVERY if found["seen"] or queue else NONE_EVERY

    def _tell(self, halted: str | None, *, whole: bool) -> None:
        """Tell of sequences that are halted now, and once all were looked at of those that are no longer."""
        for queue, key, job_id, worker in json.loads(halted) if halted else ():
            self._found.add((queue, key))
            if self._halted.get((queue, key)) == job_id:
                continue
            self._halted[queue, key] = job_id
            telemetry.emit(
                telemetry.SequenceHalted(runner=self._source, queue=queue, key=key, job_id=job_id, worker=worker)
            )
        if not whole:
            return
        for queue, key in [each for each in self._halted if each not in self._found]:
            del self._halted[queue, key]
            telemetry.emit(telemetry.SequenceResumed(runner=self._source, queue=queue, key=key))
        self._found.clear()

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
