"""Book what has become of members of flows, so that what waits for them begins; and wake jobs that have a signal."""

from __future__ import annotations

from oban_sa import telemetry
from oban_sa.jobs.durable import WAKING
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.lanes import lanes
from oban_sa.sql.locks import lane_key, try_lock
from oban_sa.sql.settle import LIMIT, settle
from oban_sa.sql.signals import wake
from oban_sa.sql.workflow import sweep
from oban_sa.wire import messages

EVERY = 1.0
"""Seconds after which each node looks for notes that no node has booked, as those of one that died."""

PLANS_LAST = 1.0
"""Seconds for which a plan of the booking is kept: making one takes several times as long as booking a few notes."""

SWEEP_EVERY = 5.0
"""Seconds after which the leader looks for members that ended without a note."""

SWEPT = 10_000
"""Members that are looked at then; where there are more, the next look goes on from there."""

LOCKED_EVERY = 0.1
"""Seconds between tries of jobs that may begin, and whose rows another transaction has locked."""

TAKEN_EVERY = 0.02
"""Seconds between tries of a lane that another node is booking: it may have begun before a note was there."""


class Settler:
    """Books the notes of all lanes, whichever node left them: at once where this one did, else within a second.

    A lane is booked by one node at a time, in a transaction of its own that holds the lane's advisory lock. If the node
    dies, the transaction rolls back, the lock is free, and the notes are still there. The leader also looks for members
    that ended without a note.
    """

    def __init__(self, database: Database, leader: Leader, *, source: telemetry.Source) -> None:
        self._schema = source.schema
        self._leader = leader
        self._source = source
        # Its own, as one booking may release thousands of jobs; and none before there is a note.
        self.line = database.line(table="oban_sa_members", enough=0)
        """The connection that books."""
        self._look = database.shared
        self._lanes = database.prepare(lanes, source.schema)
        self._lock = database.prepare(try_lock)
        self._settle = database.prepare(settle, source.schema)
        self._wake = database.prepare(wake, source.schema)
        self._channel = messages.channel(source.schema, "insert")
        self._sweep = database.prepare(sweep, source.schema)
        self._swept_to = 0
        self._swept_at = clock.monotonic() - SWEEP_EVERY
        self._after: dict[int, int] = {}
        self._from_the_beginning_at = -EVERY
        self._planned_at = -PLANS_LAST
        self._planned_for: tuple[int, int] = 0, 0
        """How large the tables were then."""

    async def tick(self) -> float:
        """Book what there is: seconds until the next look."""
        started = clock.monotonic()
        if started - self._from_the_beginning_at >= EVERY:
            self._from_the_beginning_at = started
            self._after.clear()
        if self._leader.leading and started - self._swept_at >= SWEEP_EVERY:
            self._swept_at = started
            await self._note_others()
        rows = await self._look.fetch(self._lanes)
        if rows:
            await self._plan(rows[0]["members"], rows[0]["jobs"])
        rest = EVERY
        for lane in [row["lane"] for row in rows]:
            while (pause := await self._book(lane)) == 0:
                pass
            rest = min(rest, pause)
        return rest

    async def close(self) -> None:
        """Close the connections."""
        await self.line.close()
        await self._look.close()

    async def _note_others(self) -> None:
        """Note members that ended without a note, as where another member of the family acked them."""
        [row] = await self._look.fetch(self._sweep, after=self._swept_to, limit=SWEPT)
        self._swept_to = row["last"] or 0

    async def _plan(self, members: int, jobs: int) -> None:
        """Have the booking planned anew, unless that was done just now for tables of about these sizes."""
        now = clock.monotonic()
        # A plan for a small table may read all of it, which a large one must not be.
        grown = any(size > 2 * then for size, then in zip((members, jobs), self._planned_for, strict=True))
        if grown or now - self._planned_at >= PLANS_LAST or not self.line.is_planned:
            self._planned_at, self._planned_for = now, (members, jobs)
            await self.line.plan_anew()

    async def _book(self, lane: int) -> float:
        """Book notes of a lane: seconds until there is more to book, 0 where there is now."""
        started = clock.monotonic()
        async with self.line.transaction() as transaction:
            [locked] = await transaction.fetch(self._lock, key=lane_key(self._schema, lane))
            if not locked[0]:
                return TAKEN_EVERY
            # A second statement, so that its snapshot is younger than the lock.
            [row] = await transaction.fetch(
                self._wake if lane == WAKING else self._settle,
                lane=lane,
                limit=LIMIT,
                after=self._after.get(lane, 0),
                channel=self._channel,
                announcing=True,
            )
        # What lies before are entries of notes that are booked, which a long transaction elsewhere may keep from being
        # cleaned away. Ids of transactions that commit later are lower, so now and then all of it is read.
        if row["last"] is not None:
            self._after[lane] = row["last"]
        if row["noted"]:
            telemetry.emit(
                telemetry.SettlerSettle(
                    runner=self._source,
                    lane=lane,
                    count=row["noted"],
                    released=row["released"],
                    cancelled=row["cancelled"],
                    closed=row["closed"],
                    duration=clock.monotonic() - started,
                )
            )
        if row["noted"] >= LIMIT or row["cancelled"]:  # what is cancelled has ended, too
            return 0
        return LOCKED_EVERY if row["again"] else EVERY
