"""Keep long attempts young where other members of the family look, which take a job that began long ago for lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from oban_sa import clock
from oban_sa.failures import describe
from oban_sa.runner.database import Database, Line
from oban_sa.sql.keeping import keeping
from oban_sa.sql.kindred import others_seen, peers_lead
from oban_sa.verdicts import Attempt, Verdict

logger = logging.getLogger("oban_sa.runner")

LOOK_EVERY: Final = 15.0
"""Seconds between looks for other members of the family, while there is an attempt to keep from them."""

AT_ONCE: Final = 1000
"""Attempts that one statement keeps young."""


class Key(NamedTuple):
    """One attempt of a runner: the job, and the true moment at which the attempt was fetched."""

    job_id: int
    began_at: datetime


class Written:
    """What was written, or may have been, as `attempted_at` of attempts in place of their true start.

    The heartbeat's thread notes a moment before it sends it, and whoever writes an outcome reads them on the loop or in
    a worker's thread. So an outcome that was refused because of a moment always finds it here.
    """

    def __init__(self) -> None:
        self._all: dict[Key, tuple[datetime, ...]] = {}
        self._last: dict[Key, tuple[datetime, ...]] = {}

    def of(self, attempt: Attempt | Verdict) -> tuple[datetime, ...]:
        """Return all moments that were ever sent for an attempt, without its true start; mostly none."""
        if not self._all or attempt.attempted_at is None:
            return ()
        return self._all.get(Key(attempt.job_id, attempt.attempted_at), ())

    def began_at(self, job_id: int, attempted_at: datetime) -> datetime:
        """Return the true start of the attempt whose row says `attempted_at`."""
        if self._all:
            for key, moments in list(self._all.items()):
                if key.job_id == job_id and attempted_at in moments:
                    return key.began_at
        return attempted_at

    def sends(self, key: Key, moment: datetime) -> tuple[datetime, ...]:
        """Note that a moment is about to be sent; returns those of which the row holds one until then."""
        before = self._last.get(key, (key.began_at,))
        self._last[key] = (*before, moment)
        self._all[key] = (*self._all.get(key, ()), moment)
        return before

    def arrived(self, key: Key, moment: datetime) -> None:
        """Note that the row holds this moment; what was sent before asks for others, and changes nothing any more."""
        self._last[key] = (moment,)

    def failed(self, key: Key, moment: datetime) -> None:
        """Note that a moment was not written, and never will be: its statement is over and has passed the row over."""
        for moments in (self._last, self._all):
            left = tuple(each for each in moments.get(key, ()) if each != moment)
            if left:
                moments[key] = left
            else:
                moments.pop(key, None)

    def forget(self, but: Callable[[], Iterable[Key]]) -> None:
        """Forget all attempts but some: the others are over, and their outcomes written."""
        if not self._all:
            return
        kept = set(but())
        for key in list(self._all):  # a copy, which the heartbeat's thread adds nothing to
            if key not in kept:
                self._all.pop(key, None)
                self._last.pop(key, None)


class Holding(Protocol):
    """A producer, as far as its attempts are kept young."""

    @property
    def holder(self) -> list[str]: ...

    def under_way(self) -> Sequence[Attempt]: ...


class Young:
    """Writes a later `attempted_at` for attempts that have run for long, while others may take them for lost.

    Called in the heartbeat's thread, after each beat, so that code that blocks the loop is kept young too. A node whose
    attempts are all short asks nothing.
    """

    def __init__(
        self,
        written: Written,
        *,
        after: float,
        every: float,
        holding: Callable[[], Iterable[Holding]],
    ) -> None:
        """`after` is the age in seconds that no attempt reaches by its row; `every` is seconds between beats."""
        self._written = written
        # Before its time by two beats: one may be late, and another has to be tried again.
        self._due_after = max(after - 3 * every, after / 4)
        self._look_every = min(LOOK_EVERY, after / 4)
        self._holding = holding
        self._young_at: dict[Key, float] = {}
        self._alone_until = 0.0
        self._failed = False
        self._prepared: _Prepared | None = None

    async def beat(self, database: Database, line: Line, *, within: float) -> None:
        """Keep young what is due; never raises."""
        try:
            await self._beat(database, line, within)
            self._failed = False
        except Exception as error:
            if not self._failed:
                logger.warning("long jobs could not be kept young (%s); it is tried again", describe(error))
            self._failed = True

    async def _beat(self, database: Database, line: Line, within: float) -> None:
        now = clock.monotonic()
        due: list[tuple[list[str], list[tuple[Key, int]]]] = []
        known: dict[Key, float] = {}
        for producer in self._holding():
            old: list[tuple[Key, int]] = []
            for attempt in producer.under_way():
                if attempt.attempted_at is not None:
                    key = Key(attempt.job_id, attempt.attempted_at)
                    since = known[key] = self._young_at.get(key, now)
                    if now - since >= self._due_after:
                        old.append((key, attempt.attempt))
            if old:
                due.append((producer.holder, old))
        self._young_at = known
        if not due or now < self._alone_until:
            return
        prepared = self._prepared = self._prepared or _Prepared(database)
        [seen] = await line.fetch(prepared.others, within=within, peers=prepared.peers_table)
        others = seen["others"]
        if seen["peers"] and not others:
            others = (await line.fetch(prepared.peers, within=within, name=None))[0]["leads"]
        if not others:
            self._alone_until = now + self._look_every
            return
        for holder, attempts in due:
            for start in range(0, len(attempts), AT_ONCE):
                some = attempts[start : start + AT_ONCE]
                await self._keep(line, prepared, holder, some, seen["now"].astimezone(UTC), within)

    async def _keep(
        self,
        line: Line,
        prepared: _Prepared,
        holder: list[str],
        attempts: Sequence[tuple[Key, int]],
        young: datetime,
        within: float,
    ) -> None:
        began = clock.monotonic()
        keys = {key.job_id: key for key, _ in attempts}
        rows = [
            (key.job_id, number, moment, key.began_at)
            for key, number in attempts
            for moment in self._written.sends(key, young)
        ]
        ids, numbers, moments, began_ats = (list(column) for column in zip(*rows, strict=True))
        kept = await line.fetch(
            prepared.keeping,
            within=within,
            holder=holder,
            young=young,
            ids=ids,
            attempts=numbers,
            moments=moments,
            began_ats=began_ats,
        )
        written = {row["id"] for row in kept}
        for job_id, key in keys.items():
            if job_id in written:
                self._written.arrived(key, young)
                self._young_at[key] = began
            else:
                self._written.failed(key, young)


class _Prepared:
    """The statements, made once there is an attempt that they are about."""

    def __init__(self, database: Database) -> None:
        self.others: Any = database.prepare(others_seen)
        self.peers: Any = database.prepare(peers_lead)
        self.keeping: Any = database.prepare(keeping)
        self.peers_table = database.named("oban_peers")


def naive(moments: Iterable[datetime]) -> list[datetime]:
    """Return moments as the tables hold them."""
    return [moment.astimezone(UTC).replace(tzinfo=None) for moment in moments]
