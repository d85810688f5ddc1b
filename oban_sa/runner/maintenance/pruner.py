"""Delete jobs that are over, a few at a time, so that other statements are not held up."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.jobs.retention import Prune, Rule
from oban_sa.jobs.states import JobState
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.connection import Transaction
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.archive import Archiving
from oban_sa.schedule import clock
from oban_sa.sql.prune import any_flow, archivable, delete_by_ids, holdable, prune, strangers, too_many, too_old

logger = logging.getLogger("oban_sa.runner")

REST = 9.0
"""How long to rest after a batch, in times of what the batch took: a tenth of one connection's time at most."""

AFRESH_EVERY = 3600.0
"""Seconds between looks at everything, also at what was passed over before because its row was locked."""

TELL_EVERY = 60.0
"""Seconds between events of a sweep that goes on and on."""

_LAST_ID = 2**63 - 1


class _FlowFound(Exception):
    """There is a flow, so what was just deleted may be members of it."""


class _Found(NamedTuple):
    """What became of a batch: of `seen` jobs some are `deleted`, `last` ended the latest."""

    deleted: int
    seen: int
    last: datetime | None
    is_last: bool
    """Whether no other job of the rule is to be deleted."""


@dataclass(slots=True, eq=False)
class _Sweeping:
    """A rule, how far its rows were seen, and how far they may go."""

    rule: Rule
    statements: _Statements
    since: datetime | None = None
    until: tuple[datetime, int] | None = None
    held: dict[int, None] = field(default_factory=dict[int, None])
    reach: int = 1
    """How many times a batch is looked at for one that can be deleted, where all ended at one moment."""

    def parameters(self, batch: int) -> dict[str, object]:
        assert self.until is not None  # noqa: S101
        at, job_id = self.until
        return {"since": self.since, "at": at, "id": job_id, "held": list(self.held), "batch": batch}

    def widen(self, found: _Found) -> None:
        """Look at more jobs than before where all of them are kept and ended at one moment, as of a cancelled flow.

        Only the moment tells how far it was looked, so the same ones would be looked at for ever.
        """
        stuck = found.seen > 0 and found.deleted == 0 and found.last == self.since
        self.reach = self.reach * 2 if stuck else 1

    def advance(self, last: datetime | None) -> None:
        if last is not None and last != self.since:
            self.since = last
            self.held.clear()  # all of them ended before, and are passed over by that


class Pruner:
    """Deletes what `prune` doesn't keep, while this node leads.

    A tick is one short transaction: it makes sure of the lease and deletes one batch, and nothing in it waits for a
    lock. Between batches it rests for longer than they took.

    Members of flows are deleted with their whole tree (`oban_sa.runner.maintenance.tree_pruner`). Where there are no
    flows nothing is asked before a batch, but after it, so that no flow can come in between.
    """

    def __init__(
        self, database: Database, leader: Leader, prune: Prune, *, engine: AsyncEngine, source: telemetry.Source
    ) -> None:
        self._line = database.line()
        self._leader = leader
        self._prune = prune
        self._every: float = prune.every  # type: ignore[assignment]  # seconds by now
        self._archiving = Archiving.of(prune.archive, engine, schema=database.schema)
        self._source = source
        self._too_old = database.prepare(too_old)
        self._deleting = database.prepare(delete_by_ids)
        self._any_flow = database.prepare(any_flow)
        self._sparing = False
        """Whether there are flows, so that members have to be told from other jobs."""
        self._rules = [_Sweeping(rule, _Statements(database, rule)) for rule in prune.rules]
        self._rest: deque[_Sweeping] = deque()
        self._afresh_at = clock.monotonic() + AFRESH_EVERY
        self._pruned: Counter[JobState] = Counter()
        self._working = 0.0
        self._told_at = clock.monotonic()
        self._wondered = False

    async def tick(self) -> float:
        """Delete a batch; begin anew where all is done."""
        if not self._leader.leading:
            self._end()
            return min(self._every, 1.0)
        if not self._rules:
            return self._every
        started = clock.monotonic()
        if not self._rest and not await self._begin():
            return self._every
        count = await self._prune_some()
        elapsed = clock.monotonic() - started
        self._working += elapsed
        if self._rest and count is not None:
            if clock.monotonic() - self._told_at > TELL_EVERY:
                self._tell()
            return elapsed * REST
        self._end()
        return self._every

    async def close(self) -> None:
        """Close the connection."""
        self._end()
        await self._line.close()

    async def _begin(self) -> bool:
        """Find out how far each rule goes."""
        self._told_at = clock.monotonic()
        if afresh := clock.monotonic() > self._afresh_at:
            self._afresh_at = clock.monotonic() + AFRESH_EVERY
            self._sparing = False
        for sweeping in self._rules:
            if afresh:
                sweeping.since = None
                sweeping.held.clear()
            sweeping.until = None
            # Each in a transaction of its own: a count reads many rows, and no lease is locked for as long as that.
            retention = sweeping.rule.retention
            if retention.age is not None:
                rows = await self._line.fetch(self._too_old, age=retention.age)
                sweeping.until = (rows[0]["at"], _LAST_ID)
            if retention.max_count is not None:
                rows = await self._line.fetch(sweeping.statements.too_many, keep=retention.max_count)
                for row in rows:
                    sweeping.until = max(sweeping.until or (row["at"], row["id"]), (row["at"], row["id"]))
        self._rest.extend(sweeping for sweeping in self._rules if sweeping.until is not None)
        return bool(self._rest)

    async def _prune_some(self) -> int | None:
        """Delete up to one batch, of one rule after the other; None where this node does not lead."""
        room = self._prune.batch
        while self._rest and room > 0:
            sweeping = self._rest[0]
            try:
                found = await (
                    self._pruned_batch(sweeping, room)
                    if self._archiving is None
                    else self._archived(sweeping, self._archiving)
                )
            except _FlowFound:
                self._sparing = True
                return 0
            except (asyncpg.IntegrityConstraintViolationError, IntegrityError):
                if not await self._find_held(sweeping):
                    raise
                return 0
            if found is None:
                return None
            room -= found.seen
            sweeping.widen(found)
            sweeping.advance(found.last)
            self._pruned[sweeping.rule.state] += found.deleted
            if found.is_last:
                self._rest.popleft()
        return self._prune.batch - room

    async def _pruned_batch(self, sweeping: _Sweeping, batch: int) -> _Found | None:
        async with self._line.transaction() as transaction:
            if not await self._leader.holds(transaction):
                return None
            if self._sparing:
                found, ids = await self._look(transaction, sweeping, batch)
                given = sweeping.parameters(batch) | {"ids": ids}
                [row] = await transaction.fetch(sweeping.statements.prune_among, **given)
                return found._replace(deleted=row["count"])
            [row] = await transaction.fetch(sweeping.statements.prune, **sweeping.parameters(batch))
            if row["count"]:
                await self._make_sure(transaction)
            return _Found(row["count"], row["count"], row["last"], is_last=row["count"] < batch)

    async def _look(self, transaction: Transaction, sweeping: _Sweeping, batch: int) -> tuple[_Found, list[int]]:
        """Tell members from others among the next jobs: what there is, and the ids of others, a batch at most."""
        batch *= sweeping.reach
        [row] = await transaction.fetch(sweeping.statements.strangers, **sweeping.parameters(batch))
        seen, last, ids = row["seen"], row["last"], row["ids"]
        if len(ids) > self._prune.batch:
            return _Found(0, seen, None, is_last=False), ids[: self._prune.batch]
        return _Found(0, seen, last, is_last=seen < batch), ids

    async def _make_sure(self, transaction: Transaction) -> None:
        """Raise where there is a flow. Asked after jobs were chosen, it sees the flow of each member among them."""
        [row] = await transaction.fetch(self._any_flow)
        if row["found"]:
            raise _FlowFound

    async def _archived(self, sweeping: _Sweeping, archiving: Archiving) -> _Found | None:
        """Hand a batch to the function that archives it, and delete it in the same transaction."""
        batch = self._prune.batch
        async with archiving.transaction() as (transaction, session):
            given, sparing = sweeping.parameters(batch), self._sparing
            found = _Found(0, 0, None, is_last=True)
            if sparing:
                found, given["ids"] = await self._look(transaction, sweeping, batch)
            jobs = list(await session.scalars(archivable(sweeping.rule, among=sparing), given))
            if not jobs:
                return found
            if not sparing:
                await self._make_sure(transaction)
                # The column by its name: what the archive does to the objects changes nothing here.
                last: datetime = getattr(jobs[-1], f"{sweeping.rule.state.value}_at").replace(tzinfo=None)
                found = _Found(len(jobs), len(jobs), last, is_last=len(jobs) < batch)
            ids = [job.id for job in jobs]
            await archiving.archive(session, jobs)
            # Asked last, because it locks the lease, which must be renewed however long the archive takes.
            if not await self._leader.holds(transaction):
                await session.rollback()
                return None
            await transaction.fetch(self._deleting, ids=ids)
        return found._replace(deleted=len(ids))

    async def _find_held(self, sweeping: _Sweeping) -> bool:
        """Find the jobs of a batch that can't be deleted, as rows of other tables refer to them, and pass them over."""
        held: dict[int, datetime] = {}
        async with self._line.transaction() as transaction:
            connection = transaction.connection
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            given, statement = sweeping.parameters(self._prune.batch), sweeping.statements.holdable
            if self._sparing:
                statement = sweeping.statements.holdable_among
                _, given["ids"] = await self._look(transaction, sweeping, self._prune.batch)
            rows = await transaction.fetch(statement, **given)
            trial = connection.transaction()
            await trial.start()
            for row in rows:
                try:
                    async with connection.transaction():
                        await transaction.fetch(self._deleting, ids=[row["id"]])
                except asyncpg.IntegrityConstraintViolationError as error:
                    held[row["id"]] = row["at"]
                    self._wonder(row["id"], error)
            await trial.rollback()
        found = bool(held)
        if found and len(held) == len(rows):
            sweeping.advance(rows[-1]["at"])
            held = {job_id: at for job_id, at in held.items() if at == sweeping.since}
        sweeping.held.update(dict.fromkeys(held))
        return found

    def _wonder(self, job_id: int, error: Exception) -> None:
        if not self._wondered:
            self._wondered = True
            logger.warning(
                "job %d can't be pruned, nor can others like it: %s; refer to jobs with ON DELETE CASCADE or SET NULL",
                job_id,
                exceptions.describe(error),
            )

    def _end(self) -> None:
        self._rest.clear()
        self._tell()

    def _tell(self) -> None:
        pruned, self._pruned = self._pruned, Counter()
        working, self._working = self._working, 0.0
        self._told_at = clock.monotonic()
        if count := pruned.total():
            telemetry.emit(
                telemetry.PrunerPrune(
                    runner=self._source,
                    count=count,
                    completed=pruned[JobState.COMPLETED],
                    cancelled=pruned[JobState.CANCELLED],
                    discarded=pruned[JobState.DISCARDED],
                    duration=working,
                )
            )


class _Statements:
    def __init__(self, database: Database, rule: Rule) -> None:
        self.prune = database.prepare(prune, rule)
        self.too_many = database.prepare(too_many, rule)
        self.holdable = database.prepare(holdable, rule)
        self.strangers = database.prepare(strangers, rule)
        self.prune_among = database.prepare(prune, rule, among=True)
        self.holdable_among = database.prepare(holdable, rule, among=True)
