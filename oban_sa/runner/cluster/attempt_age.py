"""Keep `attempted_at` of long attempts young: other members of the family rescue jobs by their age alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

from oban_sa.describe.exceptions import describe
from oban_sa.jobs.verdicts import Attempt, Verdict
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared
from oban_sa.schedule import clock
from oban_sa.sql.attempt_age import keep_young
from oban_sa.sql.family import others_seen, peers_lead

logger = logging.getLogger("oban_sa.runner")

LOOK_EVERY: Final = 15.0
"""Seconds between looks for other members of the family, while there is an attempt to keep from them."""

AT_ONCE: Final = 1000
"""Attempts for which one statement writes a moment, at most."""


class Key(NamedTuple):
    """One attempt of a runner: the job, and the true moment at which the attempt was fetched."""

    job_id: int
    began_at: datetime


class Written:
    """Which moments were sent as `attempted_at` of attempts, in place of their true start.

    The heartbeat's thread notes a moment before it sends it. Outcomes are written on the loop and in worker threads;
    one that the fence refuses because of such a moment always finds the moment here.
    """

    def __init__(self) -> None:
        self._all: dict[Key, tuple[datetime, ...]] = {}
        """All moments that were sent for an attempt."""
        self._last: dict[Key, tuple[datetime, ...]] = {}
        """Of those, and the true start, the ones that the row may hold."""

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
        """Note that a moment is about to be sent; returns the moments of which the row holds one until then."""
        before = self._last.get(key, (key.began_at,))
        self._last[key] = (*before, moment)
        self._all[key] = (*self._all.get(key, ()), moment)
        return before

    def arrived(self, key: Key, moment: datetime) -> None:
        """Note that the row holds this moment. What was sent before asks for an older one, and changes nothing now."""
        self._last[key] = (moment,)

    def failed(self, key: Key, moment: datetime) -> None:
        """Note that a moment was not written and never will be: its statement has answered without this row."""
        for moments in (self._last, self._all):
            left = tuple(each for each in moments.get(key, ()) if each != moment)
            if left:
                moments[key] = left
            else:
                moments.pop(key, None)

    def forget(self, but: Callable[[], Iterable[Key]]) -> None:
        """Forget all attempts except those that `but` returns: the others have ended and their outcomes are written."""
        if not self._all:
            return
        kept = set(but())
        for key in list(self._all):  # a copy, which the heartbeat's thread adds nothing to
            if key not in kept:
                self._all.pop(key, None)
                self._last.pop(key, None)


class Holding(Protocol):
    """What is known of a producer here: its `attempted_by`, and its attempts."""

    @property
    def holder(self) -> list[str]: ...

    def under_way(self) -> Sequence[Attempt]: ...


class Young:
    """Writes a later `attempted_at` for attempts that have run for long, while other members of the family are there.

    Called in the heartbeat's thread, after each beat, so that code that blocks the loop is kept young too. While all
    attempts are short it runs no statement.
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
        # Two beats early: one may be late, and the next may fail and be tried again.
        self._due_after = max(after - 3 * every, after / 4)
        self._look_every = min(LOOK_EVERY, after / 4)
        self._holding = holding
        self._young_at: dict[Key, float] = {}
        self._alone_until = 0.0
        self._failed = False

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
        due = self._due(now)
        if not due or now < self._alone_until:
            return
        [seen] = await line.fetch(database.prepare(others_seen), within, peers=database.named("oban_peers"))
        others = seen["others"]
        if seen["peers"] and not others:
            others = (await line.fetch(database.prepare(peers_lead), within, name=None))[0]["leads"]
        if not others:
            self._alone_until = now + self._look_every
            return
        prepared = database.prepare(keep_young)
        for holder, attempts in due:
            for start in range(0, len(attempts), AT_ONCE):
                some = attempts[start : start + AT_ONCE]
                await self._keep(line, prepared, holder, some, seen["now"].astimezone(UTC), within)

    def _due(self, now: float) -> list[tuple[list[str], list[tuple[Key, int]]]]:
        """The holders of attempts that are old enough, each with these attempts and their numbers."""
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
        return due

    async def _keep(
        self,
        line: Line,
        prepared: Prepared,
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
            prepared,
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


def naive(moments: Iterable[datetime]) -> list[datetime]:
    """Return moments as the tables hold them: in UTC, without a time zone."""
    return [moment.astimezone(UTC).replace(tzinfo=None) for moment in moments]
