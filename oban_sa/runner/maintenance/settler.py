"""Book what has become of members of flows, so that what waits for them begins; and wake jobs that have a signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from oban_sa import telemetry
from oban_sa.jobs.durable import WAKING
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_away
from oban_sa.runner.maintenance.pace import Found, Pace
from oban_sa.schedule import clock
from oban_sa.sql.lanes import lanes, lock_free
from oban_sa.sql.locks import lane_key
from oban_sa.sql.settle import LIMIT, settle
from oban_sa.sql.signals import wake
from oban_sa.sql.workflow import sweep
from oban_sa.wire import messages

EVERY = 1.0
"""Seconds after which each node looks for notes that no node has booked, as those of one that died."""

PLANS_LAST = 10.0
"""Seconds for which a plan of the booking is kept, unless a table has grown: making one takes as long as booking a
hundred notes. All tables are read by keys, so a plan does not go out of date by itself."""

SWEEP_EVERY = 5.0
"""Seconds after which the leader looks for members that ended without a note."""

SWEEP_RESTS = 50
"""How many times as long as that look takes it rests at least, so that a busy server spends little on it."""

SWEPT = 20_000
"""Members of open flows that are looked at then; where there are more, the next look goes on from there."""

LOCKED_EVERY = 0.1
"""Seconds between tries of jobs that may begin, and whose rows another transaction has locked."""

TAKEN_EVERY = 0.01
"""Seconds between tries of a lane that another node is booking: it may have begun before a note was there."""

_BEGINNING: Final = UUID(int=0), ""
"""Before all members, by the id of the flow and the name."""


class Settler:
    """Books the notes of all lanes, whichever node left them: at once where this one did, else within a second.

    Lanes are booked by one node at a time, all that are free in one transaction that holds their advisory locks. If the
    node dies, the transaction rolls back, the locks are free, and the notes are still there. Under load it lets notes
    gather (`Pace`). The leader also looks for members that ended without a note.
    """

    def __init__(self, database: Database, leader: Leader, *, source: telemetry.Source) -> None:
        self._schema = source.schema
        self._leader = leader
        self._source = source
        # Its own, as one booking may release thousands of jobs; and none before there is a note.
        self.line = database.line(table="oban_sa_members", enough=0)
        """The connection that books."""
        self._shared = database.shared
        self._lanes = database.prepare(lanes, source.schema)
        self._lock = database.prepare(lock_free)
        self._settle = database.prepare(settle, source.schema)
        self._wake = database.prepare(wake, source.schema)
        self._channel = messages.channel(source.schema, "insert")
        self._sweep = database.prepare(sweep, source.schema)
        self._swept_to = _BEGINNING
        self._sweep_at = clock.monotonic()
        self._after: dict[int, int] = {}
        self._from_the_beginning_at = -EVERY
        self._planned_at = -PLANS_LAST
        self._planned_for: tuple[int, int] = 0, 0
        """How large the tables were then."""
        self._pace = Pace()
        self._not_before = 0.0
        """When to look next, by the monotonic clock, however many notes come until then."""

    @property
    def rests(self) -> float:
        """Seconds for which it lets notes gather before it looks again."""
        return max(0.0, self._not_before - clock.monotonic())

    async def tick(self) -> float:
        """Book what there is: seconds until the next look."""
        if rests := self.rests:
            return rests
        started = clock.monotonic()
        if started - self._from_the_beginning_at >= EVERY:
            self._from_the_beginning_at = started
            self._after.clear()
        if self._leader.leading and started >= self._sweep_at:
            await self._note_others()
        rows = await (self.line if self.line.is_planned else self._shared).fetch(self._lanes)
        found = [Found(row["lane"], row["notes"], row["first"], row["last"]) for row in rows]
        rest = EVERY
        if self._pace.leaves(found):
            rest = self._pace.pause
        elif found:
            await self._plan(rows[0]["members"], rows[0]["jobs"])
            rest = await self._book_all(found)
        else:
            self._pace.booked(0, 0.0, 0)
        if self._pace.pause:
            rest = min(rest, self._pace.pause)
            self._not_before = clock.monotonic() + rest
        return rest

    async def close(self) -> None:
        """Close the connections."""
        await self.line.close()
        await self._shared.close()

    async def _note_others(self) -> None:
        """Note members that ended without a note, as where another member of the family acked them."""
        started = clock.monotonic()
        self._sweep_at = started + SWEEP_EVERY
        flow, name = self._swept_to
        [row] = await self._shared.fetch(self._sweep, after_flow=flow, after_name=name, limit=SWEPT)
        self._swept_to = _BEGINNING if row["flow"] is None else (row["flow"], row["name"])
        self._sweep_at = max(self._sweep_at, started + SWEEP_RESTS * (clock.monotonic() - started))

    async def _plan(self, members: int, jobs: int) -> None:
        """Have the booking planned anew, unless that was done just now for tables of about these sizes."""
        now = clock.monotonic()
        # A plan for a small table may read all of it, which a large one must not be.
        grown = any(size > 2 * then for size, then in zip((members, jobs), self._planned_for, strict=True))
        if grown or now - self._planned_at >= PLANS_LAST or not self.line.is_planned:
            self._planned_at, self._planned_for = now, (members, jobs)
            await self.line.plan_anew()

    async def _book_all(self, found: Sequence[Found]) -> float:
        """Book the notes of these lanes: seconds until the next look."""
        started = clock.monotonic()
        count, rest = 0, EVERY
        groups = [[each.lane for each in found if each.lane != WAKING]]
        groups += [[each.lane] for each in found if each.lane == WAKING]
        for group in filter(None, groups):
            booked, pause = await self._book_group(group)
            count += booked
            rest = min(rest, pause)
        self._pace.booked(count, clock.monotonic() - started, max(each.last for each in found))
        return rest if count else EVERY  # for nothing was free: then the pause says how soon

    async def _book_group(self, group: Sequence[int]) -> tuple[int, float]:
        """Book the notes of lanes until few are left: how many, and seconds until the next look."""
        count, turn, pause = 0, list(group), 0.0
        while not pause:
            try:
                booked, pause = await self._book(turn)
            except asyncpg.PostgresError as error:
                if is_away(error) or len(turn) == 1:
                    raise
                return await self._book_apart(turn)
            count += booked
            turn = turn[1:] + turn[:1]  # so that no lane waits for long behind one with many notes
        return count, pause

    async def _book_apart(self, group: Sequence[int]) -> tuple[int, float]:
        """Book each lane by itself, as one of them has what can't be booked, which must not keep back the others."""
        count, rest, errors = 0, EVERY, []
        for lane in group:
            try:
                booked, pause = await self._book_group([lane])
            except asyncpg.PostgresError as error:
                if is_away(error):
                    raise
                errors.append(error)
            else:
                count += booked
                rest = min(rest, pause)
        if errors:
            raise errors[0]
        return count, rest

    async def _book(self, group: Sequence[int]) -> tuple[int, float]:
        """Book notes of lanes in one statement: how many, and seconds until there is more to book, 0 for at once."""
        started = clock.monotonic()
        keys = {lane_key(self._schema, lane): lane for lane in group}
        async with self.line.transaction() as transaction:
            locked = {row["key"] for row in await transaction.fetch(self._lock, keys=list(keys))}
            free = [lane for key, lane in keys.items() if key in locked]
            if not free:
                return 0, TAKEN_EVERY
            given = {"limit": LIMIT, "channel": self._channel, "announcing": True}
            afters = [self._after.get(lane, 0) for lane in free]
            # A second statement, so that its snapshot is younger than the locks.
            if free == [WAKING]:
                [row] = await transaction.fetch(self._wake, lane=WAKING, after=afters[0], **given)
            else:
                [row] = await transaction.fetch(self._settle, lanes=free, afters=afters, **given)
        # What lies before are entries of notes that are booked, which a long transaction elsewhere may keep from being
        # cleaned away. Ids of transactions that commit later are lower, so now and then all of it is read.
        self._after.update(zip(row["lanes"], row["reached"], strict=True))
        if row["noted"]:
            telemetry.emit(
                telemetry.SettlerSettle(
                    runner=self._source,
                    lanes=tuple(row["lanes"]),
                    count=row["noted"],
                    released=row["released"],
                    cancelled=row["cancelled"],
                    closed=row["closed"],
                    duration=clock.monotonic() - started,
                )
            )
        # What is cancelled has ended, too.
        if row["noted"] >= LIMIT or row["cancelled"] or row["put_off"]:
            return row["noted"], 0
        rest = TAKEN_EVERY if len(free) < len(keys) else EVERY
        return row["noted"], min(rest, LOCKED_EVERY) if row["again"] else rest
