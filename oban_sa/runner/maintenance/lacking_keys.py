"""Give keys to jobs of queues with partitions that were written without: by other programs, or by plain workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import asyncpg

from oban_sa.describe.exceptions import describe
from oban_sa.errors import WorkerNotFound
from oban_sa.jobs import values
from oban_sa.jobs.keys import HALTS, PARTITION, SEQUENCE
from oban_sa.models import Job
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.fetch import BEGINNING, Position
from oban_sa.sql.lacking_keys import along, give, newest
from oban_sa.workers.registry import Registry

logger = logging.getLogger("oban_sa.runner")

NEWEST: Final = 1_000
"""Jobs in a page of the newest; the next page is read while one has jobs without a key."""

ALONG: Final = 5_000
"""Available jobs of a queue in a page along its index."""

ALONG_EVERY: Final = 10.0
"""Seconds between two such pages while none has a job without a key, since each of them reads that many rows."""

UNKNOWN_WAITS: Final = 60.0
"""Seconds after which a job of a worker that is unknown here is put into the partition without a name; until then a
program that knows it may do better."""

_LAST: Final = 2**63 - 1


class Partitioned(Protocol):
    """A queue that may have partitions."""

    queue: str

    @property
    def partitioned(self) -> bool:
        """Whether jobs are fetched by partition."""
        ...


class LackingKeys:
    """Looks every `every` seconds for jobs without a key, in queues of this node that have partitions.

    Without a key a job is in no partition, so that no fetch would take it.
    """

    def __init__(
        self,
        database: Database,
        *,
        registry: Registry,
        allow: Sequence[str],
        every: float,
        queues: Callable[[], Iterable[Partitioned]],
        given: Callable[[str], None],
    ) -> None:
        """`given` is called with a queue whose jobs were given a key, and so can be fetched."""
        self._line = database.shared
        self._newest = database.prepare(newest)
        self._along = database.prepare(along)
        self._give = database.prepare(give)
        self._registry = registry
        self._allow = allow
        self._every = every
        self._queues = queues
        self._given = given
        self._places: dict[str, Position] = {}
        self._along_at: dict[str, float] = {}
        self._told: set[str] = set()

    async def tick(self) -> float:
        """Give keys to what lacks one, as far as it is found; returns the seconds until the next tick."""
        queues = sorted({each.queue for each in self._queues() if each.partitioned})
        self._places = {queue: self._places.get(queue, BEGINNING) for queue in queues}
        if queues:
            await self._look_at_newest(queues)
            for queue in queues:
                await self._look_along(queue)
        return self._every

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _look_at_newest(self, queues: list[str]) -> None:
        before = _LAST
        while True:
            rows = await self._line.fetch(self._newest, before=before, limit=NEWEST, queues=queues)
            if not rows:
                return
            *lacking, last = rows
            if not await self._give_keys(lacking) or last["seen"] < NEWEST:
                return
            before = last["id"]

    async def _look_along(self, queue: str) -> None:
        if clock.monotonic() < self._along_at.get(queue, 0):
            return
        while True:
            place = self._places[queue]
            rows = await self._line.fetch(
                self._along,
                queue=queue,
                **place._asdict(),
                limit=ALONG,
                queues=[queue],
            )
            lacking, self._places[queue] = rows[:-1], BEGINNING
            if rows and (last := rows[-1])["seen"] == ALONG:
                self._places[queue] = Position(last["priority"], last["scheduled_at"], last["id"])
            if not await self._give_keys(lacking) or self._places[queue] is BEGINNING:
                self._along_at[queue] = clock.monotonic() + ALONG_EVERY
                return

    async def _give_keys(self, rows: Sequence[asyncpg.Record]) -> bool:
        """Give these jobs their keys; whether any got one."""
        found = {row["id"]: lacks for row in rows if (lacks := self._lacks(dict(row))) is not None}
        if not found:
            return False
        given = await self._line.fetch(
            self._give, ids=list(found), metas=[values.dumps(each) for each in found.values()]
        )
        got = {row["id"] for row in given}
        for queue in {row["queue"] for row in rows if row["id"] in got}:
            self._given(queue)
        return bool(got)

    def _lacks(self, row: Mapping[str, object]) -> dict[str, object] | None:
        """Return what the meta of a job lacks, or None where another program may know that and this one doesn't."""
        unnamed: dict[str, object] = {PARTITION: ""}
        try:
            keys = self._registry.find(str(row["worker"]), self._allow).keys
        except WorkerNotFound:
            waited = row["waited"]
            return unnamed if isinstance(waited, float) and waited >= UNKNOWN_WAITS else None
        if keys is None:
            return unnamed
        try:
            job = keys.write(Job.from_row(row))
        except Exception as error:  # of a function of the application, or since the job lacks what the key is read from
            self._tell(str(row["worker"]), row["id"], error)
            return unnamed
        return {**unnamed, **{name: job.meta[name] for name in (PARTITION, SEQUENCE, HALTS) if name in job.meta}}

    def _tell(self, worker: str, job_id: object, error: Exception) -> None:
        if worker not in self._told:
            self._told.add(worker)
            logger.warning(
                "job %s of %s has no partition and is put into the one without a name: %s",
                job_id,
                worker,
                describe(error),
            )
