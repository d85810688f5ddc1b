"""Rescue the jobs of nodes that died."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from oban_sa import clock, telemetry
from oban_sa.errors import AttemptOrphaned
from oban_sa.runner.database import Database, Transaction, describe
from oban_sa.runner.disconnects import is_refused
from oban_sa.runner.leader import Leader
from oban_sa.runner.refused import WAITS
from oban_sa.sql.kindred import others_seen
from oban_sa.sql.notifying import NOTIFY, insertions
from oban_sa.sql.rescuing import (
    LIMIT,
    abandoned,
    backdating,
    beaten,
    burying,
    dead,
    exhausted,
    rescuing,
    restoring,
    ruling_out,
)
from oban_sa.sql.rescuing import orphaned as orphaned_jobs
from oban_sa.verdicts import orphaned, storable

logger = logging.getLogger("oban_sa.runner")

EXHAUSTED_EVERY = 60.0
"""Seconds between looks for available jobs whose attempts are spent; the look reads the head of every queue."""

RESTORE = 3
"""Times that producers without a row are looked for in the span after which one of them is dead."""

ABANDONED = f"{AttemptOrphaned.__name__}: the node that ran this attempt gives no sign of life, and began it long ago"
EXHAUSTED = f"{AttemptOrphaned.__name__}: the job was available with all its attempts spent"

RULED_OUT = f"{AttemptOrphaned.__name__}: its node stopped beating, and the database refused to let it wait any more"


class _Missing(NamedTuple):
    """A producer of ours whose row was gone: since when, and when it was last given one."""

    since: datetime
    restored_at: datetime


class Lifeline:
    """Looks every `every` seconds for producers that no longer beat, and gives their jobs to others.

    Exact: a job is rescued because the node that runs it is dead, never because it has run for long. The dead, what
    they ran and the lease are read in one transaction. A producer's row goes only when it holds no job any more. One
    of ours that holds jobs and has no row is given one, in which it beats or is found dead.

    After the database was away everybody's last beat is long ago, this node's own too, and no lease is left. So nobody
    is called dead before this node has led for `patience`, in which whoever lives has beaten again.
    """

    def __init__(
        self,
        database: Database,
        leader: Leader,
        *,
        source: telemetry.Source,
        every: float,
        dead_after: float = 30.0,
        patience: float = 0.0,
        abandoned_after: float | None = None,
        abandoned_patience: float = 0.0,
    ) -> None:
        """`abandoned_patience` is what `patience` is, for nodes of others, which beat more seldom."""
        self._abandoned_patience = abandoned_patience
        self._line = database.house
        self._leader = leader
        self._source = source
        self._every = every
        self._patience = patience
        self._abandoned_after = abandoned_after
        self._dead_after = dead_after
        self._restoring = database.prepare(restoring)
        self._dead = database.prepare(dead)
        self._rescuing = database.prepare(rescuing)
        self._orphaned = database.prepare(orphaned_jobs)
        self._one = database.prepare(rescuing, singly=True)
        self._one_later = database.prepare(rescuing, singly=True, wait=True)
        self._none = database.prepare(ruling_out)
        self._burying = database.prepare(burying)
        self._abandoned = {known: database.prepare(abandoned, peers_known=known) for known in (True, False)}
        self._others = database.prepare(others_seen)
        self._peers_table = database.named("oban_peers")
        self._backdating = database.prepare(backdating)
        self._beaten = database.prepare(beaten)
        self._missing: dict[UUID, _Missing] = {}
        self._exhausted = database.prepare(exhausted)
        self._announcing = database.prepare(NOTIFY)
        self._exhausted_at = -EXHAUSTED_EVERY
        self._restored_at = -dead_after

    async def tick(self) -> float:
        """Rescue what there is to rescue."""
        if not self._leader.leading:
            return min(self._every, 1.0)
        if (rest := self._patience - self._leader.led_for) > 0:
            return min(self._every, rest)
        started = clock.monotonic()
        async with self._line.transaction() as transaction:
            if not await self._leader.holds(transaction):
                return self._every
            if started - self._restored_at > self._dead_after / RESTORE:
                self._restored_at = started
                await self._restore(transaction)
            rescued = await self._rescue(transaction)
            rescued += await self._rescue_abandoned(transaction)
            if queues := {row["queue"] for row in rescued if row["state"] == "available"}:
                await transaction.fetch(self._announcing, **insertions(sorted(queues), self._source.schema))
        self._tell(rescued, clock.monotonic() - started)
        if started - self._exhausted_at > EXHAUSTED_EVERY:
            self._exhausted_at = started
            await self._discard_exhausted()
        return 0 if len(rescued) >= LIMIT else self._every

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _discard_exhausted(self) -> None:
        # In a transaction of its own, which can't take a rescue down with it.
        started = clock.monotonic()
        async with self._line.transaction() as transaction:
            if not await self._leader.holds(transaction):
                return
            discarded = await transaction.fetch(self._exhausted, text=EXHAUSTED)
        self._tell(discarded, clock.monotonic() - started)

    async def _rescue_abandoned(self, transaction: Transaction) -> list[asyncpg.Record]:
        if self._abandoned_after is None or self._leader.led_for < self._abandoned_patience:
            return []
        [seen] = await transaction.fetch(self._others, peers=self._peers_table)
        abandoned = self._abandoned[seen["peers"]]
        return await transaction.fetch(abandoned, after=self._abandoned_after, text=ABANDONED)

    async def _restore(self, transaction: Transaction) -> None:
        if self._missing:
            moments = [missing.restored_at for missing in self._missing.values()]
            for row in await transaction.fetch(self._beaten, uuids=list(self._missing), moments=moments):
                del self._missing[row["uuid"]]
        restored = await transaction.fetch(self._restoring, name=self._source.name, dead_after=self._dead_after)
        for row in restored:
            uuid, at = row["uuid"], row["updated_at"]
            since = self._missing[uuid].since if uuid in self._missing else at
            # Oban for Python removes rows that are silent for a minute. Were each restored one new, a node that is dead
            # only after longer than that would never be.
            if since < at:
                await transaction.fetch(self._backdating, missing=uuid, restored=at, since=since)
            self._missing[uuid] = _Missing(since, max(since, at))
        for node in sorted({row["node"] for row in restored}):
            logger.warning("node %s holds jobs and had no row that says it lives; it was given one", node)

    async def _rescue(self, transaction: Transaction) -> list[asyncpg.Record]:
        gone = await transaction.fetch(self._dead)
        if not gone:
            return []
        uuids = [str(row["uuid"]) for row in gone]
        for row in gone:
            self._missing.pop(row["uuid"], None)
        texts = [orphaned(row["node"], silent_for=row["silent_for"]) for row in gone]
        try:
            async with transaction.savepoint():
                rescued = await transaction.fetch(self._rescuing, uuids=uuids, texts=texts)
        except Exception as error:
            if not is_refused(error):
                raise
            rescued = await self._rescue_singly(transaction, uuids, texts)
        await transaction.fetch(self._burying, uuids=uuids)
        for node in sorted({row["node"] for row in gone}):
            logger.warning("node %s is dead; its jobs are given to others", node)
        return rescued

    async def _rescue_singly(
        self, transaction: Transaction, uuids: list[str], texts: list[str]
    ) -> list[asyncpg.Record]:
        """Rescue where a rule of the application's refuses some of the jobs, such as a unique index of its own.

        A job that can't be available waits as a retryable one, and where it can't do that either, it is discarded.
        """
        rescued: list[asyncpg.Record] = []
        for row in await transaction.fetch(self._orphaned, uuids=uuids):
            job_id, refused = row["id"], ""
            dead: dict[str, Any] = {"uuids": uuids, "texts": texts, "job_id": job_id}
            for statement, more in ((self._one, dead), (self._one_later, {**dead, "seconds": WAITS}), (self._none, {})):
                text = (
                    f"{AttemptOrphaned.__name__}: its node stopped beating, and the database refused to let it wait: "
                )
                given = more or {"job_id": job_id, "text": storable(f"{text}{refused}")}
                try:
                    async with transaction.savepoint():
                        rescued += await transaction.fetch(statement, **given)
                except Exception as error:
                    if not is_refused(error):
                        raise
                    refused = describe(error)
                else:
                    break
            if refused:
                logger.warning("the database refused to make job %d of a dead node available: %s", job_id, refused)
        return rescued

    def _tell(self, rescued: list[asyncpg.Record], duration: float) -> None:
        if not rescued:
            return
        discarded = sum(row["state"] == "discarded" for row in rescued)
        telemetry.emit(
            telemetry.LifelineRescue(
                runner=self._source,
                count=len(rescued),
                discarded=discarded,
                job_ids=tuple(row["id"] for row in rescued),
                duration=duration,
            )
        )
