"""Delete workflows and batches that are over with all their jobs: whole trees, and never parts of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast
from uuid import UUID

import asyncpg
from sqlalchemy import BigInteger, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.jobs.retention import STATES, Prune, Retention
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.connection import Transaction
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.archive import Archiving
from oban_sa.runner.maintenance.pruner import AFRESH_EVERY, REST
from oban_sa.schedule import clock
from oban_sa.sql.expressions import array
from oban_sa.sql.locks import lane_key, try_locks
from oban_sa.sql.planner import plainly
from oban_sa.sql.prune import any_flow, too_old
from oban_sa.sql.trees import choose, delete_flows, delete_members, due, has_kept, keeping, too_many_trees

logger = logging.getLogger("oban_sa.runner")

_FIRST: Final = UUID(int=0)


@dataclass(slots=True, eq=False)
class _Sweeping:
    """Trees that ended in one state: how far they were seen, and how far they may go."""

    state: JobState
    retention: Retention
    since: datetime | None = None
    until: datetime | None = None
    held: dict[UUID, None] = field(default_factory=dict[UUID, None])

    def advance(self, trees: list[asyncpg.Record]) -> None:
        """Pass over trees, which are deleted or can't be."""
        last: datetime = trees[-1]["at"]
        if last != self.since:
            self.since = last
            self.held.clear()  # all of them ended before, and are passed over by that
        self.held.update({tree["id"]: None for tree in trees if tree["at"] == last})


@dataclass(slots=True, eq=False)
class _Slices:
    """A tree that is too large for one transaction, and the last of its members that was looked at."""

    root: UUID
    lane: int
    until: datetime
    flow: UUID = _FIRST
    name: str = ""


class TreePruner:
    """Deletes trees of flows that are older than their state is kept, while this node leads.

    A tree's age counts from the moment at which its last member ended, and its state is that of the whole. It is kept
    as long as one of its jobs runs again, is locked, or is kept for longer by the rule of its queue or worker. As with
    other jobs a tick deletes a batch, and nothing in it waits for a lock; a tree larger than a batch takes several.
    """

    def __init__(
        self, database: Database, leader: Leader, prune: Prune, *, engine: AsyncEngine, source: telemetry.Source
    ) -> None:
        schema = database.schema
        self._schema = schema
        self._line = database.line()
        self._look = database.shared
        self._leader = leader
        self._batch = prune.batch
        self._every = cast("float", prune.every)
        self._archiving = Archiving.of(prune.archive, engine, schema=schema)
        self._source = source
        self._keeping = keeping(prune.all_rules)
        self._any_flow = database.prepare(any_flow)
        self._too_old = database.prepare(too_old)
        self._plainly = database.prepare(plainly)
        self._locks = database.prepare(try_locks)
        self._too_many = {state: database.prepare(too_many_trees, schema, state) for state in STATES}
        self._due = {state: database.prepare(due, schema, state) for state in STATES}
        self._has_kept = database.prepare(has_kept, schema)
        self._choose = database.prepare(choose, schema)
        self._delete_members = database.prepare(delete_members, schema)
        self._delete_flows = database.prepare(delete_flows, schema)
        self._states = [_Sweeping(state, kept) for state in STATES if not (kept := getattr(prune, state.value)).forever]
        self._rest: list[_Sweeping] = []
        self._slices: _Slices | None = None
        self._afresh_at = clock.monotonic() + AFRESH_EVERY
        self._pruned: Counter[str] = Counter()
        self._working = 0.0

    async def tick(self) -> float:
        """Delete a batch; begin anew where all is done."""
        if not self._leader.leading:
            self._end()
            return min(self._every, 1.0)
        started = clock.monotonic()
        if not self._rest and not await self._begin():
            return self._every
        leading = await self._prune_some()
        elapsed = clock.monotonic() - started
        self._working += elapsed
        if self._rest and leading:
            return elapsed * REST
        self._end()
        return self._every

    async def close(self) -> None:
        """Close the connections."""
        self._end()
        await self._line.close()
        await self._look.close()

    async def _begin(self) -> bool:
        """Find out how far each state goes; nothing more is asked where there are no flows."""
        [row] = await self._look.fetch(self._any_flow)
        if not row["found"]:
            return False
        if afresh := clock.monotonic() > self._afresh_at:
            self._afresh_at = clock.monotonic() + AFRESH_EVERY
        for sweeping in self._states:
            if afresh:
                sweeping.since = None
                sweeping.held.clear()
            bounds: list[datetime] = []
            if sweeping.retention.age is not None:
                bounds += [row["at"] for row in await self._line.fetch(self._too_old, age=sweeping.retention.age)]
            if (keep := sweeping.retention.max_count) is not None:
                bounds += [row["at"] for row in await self._line.fetch(self._too_many[sweeping.state], keep=keep)]
            sweeping.until = max(bounds, default=None)
        self._rest = [sweeping for sweeping in self._states if sweeping.until is not None]
        return bool(self._rest)

    async def _prune_some(self) -> bool:
        """Delete up to one batch of a state, or a slice of a large tree: whether this node leads."""
        if self._slices is not None:
            return await self._slice(self._slices)
        sweeping = self._rest[0]
        assert sweeping.until is not None  # noqa: S101
        found = await self._look.fetch(
            self._due[sweeping.state],
            since=sweeping.since,
            at=sweeping.until,
            held=list(sweeping.held),
            limit=self._batch,
        )
        if not found:
            self._rest.pop(0)
            return True
        if found[0]["total"] <= self._batch:
            return await self._prune_whole(sweeping, _up_to(self._batch, found), sweeping.until)
        oldest = found[0]
        sweeping.advance(found[:1])
        [row] = await self._look.fetch(self._has_kept, root=oldest["id"], keeping=self._keeping)
        if not row["found"]:
            self._slices = _Slices(oldest["id"], oldest["lane"], sweeping.until)
        return True

    async def _prune_whole(self, sweeping: _Sweeping, trees: list[asyncpg.Record], until: datetime) -> bool:
        """Delete trees, those that can be: whether this node leads.

        Those whose lane is being booked are tried again soon, others not before all is looked at afresh.
        """
        try:
            async with self._transaction() as (transaction, session):
                roots = await self._locked(transaction, session, {tree["id"]: tree["lane"] for tree in trees})
                given = {"flow": _FIRST, "name": "", "limit": None, "keeping": self._keeping}
                [row] = await transaction.fetch(self._choose, roots=roots, at=until, whole=True, **given)
                if not await self._finish(transaction, session, row["ids"], row["roots"]):
                    return False
        except (asyncpg.IntegrityConstraintViolationError, IntegrityError) as error:
            # Rows of other tables refer to a job of one of them.
            if len(trees) > 1:
                for tree in trees:
                    if not await self._prune_whole(sweeping, [tree], until):
                        return False
                return True
            logger.warning(
                "the workflow %s can't be pruned: %s; refer to jobs with ON DELETE CASCADE or SET NULL",
                trees[0]["id"],
                exceptions.describe(error),
            )
            roots = [trees[0]["id"]]
        if len(roots) == len(trees):
            sweeping.advance(trees)
        return True

    async def _slice(self, slices: _Slices) -> bool:
        """Delete the next members of a large tree; with the last of them its flows."""
        async with self._transaction() as (transaction, session):
            roots = await self._locked(transaction, session, {slices.root: slices.lane})
            given = {"flow": slices.flow, "name": slices.name, "limit": self._batch, "keeping": self._keeping}
            [row] = await transaction.fetch(self._choose, roots=roots, at=slices.until, whole=False, **given)
            over = bool(row["roots"]) and row["seen"] < self._batch
            leading = await self._finish(transaction, session, row["ids"], row["roots"] if over else [])
        if over or not leading:
            self._slices = None
        elif row["seen"]:
            slices.flow, slices.name = row["last_flow"], row["last_name"]
        return leading

    async def _locked(
        self, transaction: Transaction, session: AsyncSession | None, trees: dict[UUID, int]
    ) -> list[UUID]:
        """Lock the lanes of trees: the trees whose lane no settler is booking."""
        if session is None:  # else what the user's function does would be planned so, too
            await transaction.fetch(self._plainly)
        keys = {lane_key(self._schema, lane): lane for lane in trees.values()}
        free = {keys[row["key"]] for row in await transaction.fetch(self._locks, keys=list(keys))}
        return [root for root, lane in trees.items() if lane in free]

    async def _finish(
        self, transaction: Transaction, session: AsyncSession | None, ids: list[int], roots: list[UUID]
    ) -> bool:
        """Archive jobs and delete what was chosen: whether this node leads; where it does not, nothing is deleted."""
        if session is not None and self._archiving is not None and ids:
            jobs = await session.scalars(
                select(Job).where(Job.id == func.any(array("ids", BigInteger()))), {"ids": ids}
            )
            await self._archiving.archive(session, list(jobs))
        # Asked last, because it locks the lease, which must be renewed however long the archive takes.
        if not await self._leader.holds(transaction):
            return False
        [gone] = await transaction.fetch(self._delete_members, ids=ids)
        [flows] = await transaction.fetch(self._delete_flows, roots=roots)
        self._pruned.update({state.value: gone[state.value] for state in STATES}, workflows=flows["count"])
        return True

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[tuple[Transaction, AsyncSession | None]]:
        """Begin a transaction; where jobs are archived, that of a session."""
        if self._archiving is None:
            async with self._line.transaction() as transaction:
                yield transaction, None
        else:
            async with self._archiving.transaction() as begun:
                yield begun

    def _end(self) -> None:
        self._rest.clear()
        self._slices = None
        pruned, self._pruned = self._pruned, Counter()
        working, self._working = self._working, 0.0
        if pruned.total():
            telemetry.emit(
                telemetry.PrunerPrune(
                    runner=self._source,
                    count=sum(pruned[state.value] for state in STATES),
                    completed=pruned["completed"],
                    cancelled=pruned["cancelled"],
                    discarded=pruned["discarded"],
                    workflows=pruned["workflows"],
                    duration=working,
                )
            )


def _up_to(batch: int, trees: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """The first trees that have no more members than a batch together; at least one."""
    chosen: list[asyncpg.Record] = []
    members = 0
    for tree in trees:
        members += tree["total"]
        if chosen and members > batch:
            break
        chosen.append(tree)
    return chosen
