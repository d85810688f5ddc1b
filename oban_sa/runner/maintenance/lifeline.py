"""Rescue the jobs of nodes that died, and discard what no fetch takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.errors import AttemptOrphaned
from oban_sa.jobs.backoff import REFUSED_WAITS
from oban_sa.jobs.verdicts import orphaned, storable
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.connection import Transaction
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_refused
from oban_sa.runner.database.prepared import Prepared
from oban_sa.schedule import clock
from oban_sa.sql.family import others_seen
from oban_sa.sql.followers import Follower
from oban_sa.sql.notify import NOTIFY, insertions
from oban_sa.sql.rescue import (
    LIMIT,
    abandoned,
    backdate,
    beaten,
    bury,
    dead,
    discard,
    exhausted,
    orphans,
    rescue,
    restore,
)

logger = logging.getLogger("oban_sa.runner")

EXHAUSTED_EVERY = 60.0
"""Seconds between statements that discard available jobs whose attempts are spent; each reads every queue's head."""

RESTORE = 3
"""How often rows are restored in the time after which a silent producer is dead."""

ABANDONED = f"{AttemptOrphaned.__name__}: the node that ran this attempt gives no sign of life, and began it long ago"
EXHAUSTED = f"{AttemptOrphaned.__name__}: the job was available with all its attempts spent"

REFUSED = f"{AttemptOrphaned.__name__}: its node stopped beating, and the database refused to let it wait: "


class _Missing(NamedTuple):
    """A producer of ours whose row was gone: since when, and when it was last given one."""

    since: datetime
    restored_at: datetime


class Lifeline:
    """Looks every `every` seconds for producers that no longer beat, and gives their jobs to others.

    A job is rescued because the node that runs it is dead, never because it has run for long. The dead, their jobs and
    the lease are read in one transaction. A producer's row is removed only when it holds no job any more. One of ours
    that holds jobs and has no row is given one, in which it beats or is found dead.

    After the database was away every last beat is long ago, this node's own too, and there is no lease. So no node
    counts as dead before this one has led for `patience` seconds, in which all that live have beaten again.
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
        followers: Sequence[Follower] = (),
    ) -> None:
        """`abandoned_patience` is the `patience` with other members of the family, which beat more seldom.

        The `followers` are part of every statement that gives a job back or discards it.
        """
        following = {"followers": tuple(followers)}
        self._abandoned_patience = abandoned_patience
        self._line = database.shared
        self._leader = leader
        self._source = source
        self._every = every
        self._patience = patience
        self._abandoned_after = abandoned_after
        self._dead_after = dead_after
        self._restore_rows = database.prepare(restore)
        self._dead = database.prepare(dead)
        self._rescue_all = database.prepare(rescue, **following)
        self._orphans = database.prepare(orphans)
        self._rescue_one = database.prepare(rescue, singly=True, **following)
        self._retry_one = database.prepare(rescue, singly=True, wait=True, **following)
        self._discard_one = database.prepare(discard, **following)
        self._bury = database.prepare(bury)
        self._abandoned = {
            known: database.prepare(abandoned, peers_known=known, **following) for known in (True, False)
        }
        self._others = database.prepare(others_seen)
        self._peers_table = database.named("oban_peers")
        self._backdate = database.prepare(backdate)
        self._beaten = database.prepare(beaten)
        self._missing: dict[UUID, _Missing] = {}
        self._exhausted = database.prepare(exhausted, **following)
        self._announcing = database.prepare(NOTIFY)
        self._exhausted_at = -EXHAUSTED_EVERY
        self._restored_at = -dead_after

    async def tick(self) -> float:
        """Rescue the jobs of the dead: seconds until the next time."""
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
        # In a transaction of its own: its failure must not roll a rescue back.
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
        restored = await transaction.fetch(self._restore_rows, name=self._source.name, dead_after=self._dead_after)
        for row in restored:
            uuid, at = row["uuid"], row["updated_at"]
            since = self._missing[uuid].since if uuid in self._missing else at
            # Oban for Python removes rows that are silent for a minute. If a restored row counted as a beat, a node
            # that is dead only after longer than that would never be found.
            if since < at:
                await transaction.fetch(self._backdate, missing=uuid, restored=at, since=since)
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
                rescued = await transaction.fetch(self._rescue_all, uuids=uuids, texts=texts)
        except Exception as error:
            if not is_refused(error):
                raise
            rescued = await self._rescue_singly(transaction, uuids, texts)
        await transaction.fetch(self._bury, uuids=uuids)
        for node in sorted({row["node"] for row in gone}):
            logger.warning("node %s is dead; its jobs are given to others", node)
        return rescued

    async def _rescue_singly(
        self, transaction: Transaction, uuids: list[str], texts: list[str]
    ) -> list[asyncpg.Record]:
        """Rescue one job at a time, where a rule of the application, as a unique index, refuses some of them.

        A job that can't be available becomes retryable, and where that is refused too, it is discarded.
        """
        rescued: list[asyncpg.Record] = []
        for row in await transaction.fetch(self._orphans, uuids=uuids):
            job_id, refused = row["id"], ""
            dead: dict[str, object] = {"uuids": uuids, "texts": texts, "job_id": job_id}
            tries: list[tuple[Prepared, dict[str, object]]] = [
                (self._rescue_one, dead),
                (self._retry_one, {**dead, "seconds": REFUSED_WAITS}),
                (self._discard_one, {"job_id": job_id}),
            ]
            for statement, given in tries:
                if statement is self._discard_one:
                    given["text"] = storable(f"{REFUSED}{refused}")
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
