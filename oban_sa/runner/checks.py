"""What a runner's health consists of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import select

from oban_sa import clock
from oban_sa.periods import describe as span
from oban_sa.runner.database import Database, describe
from oban_sa.runner.health import Check
from oban_sa.runner.notifier import Notifier
from oban_sa.runner.producer import Producer
from oban_sa.runner.watch import Watch
from oban_sa.sql.literals import inline

REACHED_WITHIN = 2.0
"""Seconds in which the database must have answered."""

ASK_EVERY = 1.0
"""Seconds for which an answer of the database stands, however often somebody asks."""

LAG_LIMIT = 10.0
"""Seconds of lag with which a loop counts as dead."""

CYCLES_MISSED = 5.0
"""Seconds, beside three times the interval of polling, after which a queue counts as not fetching."""


class Checks:
    """`live`: the loop turns. `ready`: everything is there which makes jobs start."""

    def __init__(
        self,
        database: Database,
        *,
        notifier: Notifier,
        producers: Callable[[], Iterable[Producer]],
        watch: Watch | None,
        poll_every: float,
        idle_because: Callable[[], str | None],
    ) -> None:
        """`idle_because` says why the runner does not work, as where it stops, or None."""
        self._line = database.line()
        self._asking = database.prepare(select(inline("1").label("one")))
        self._notifier = notifier
        self._producers = producers
        self._watch = watch
        self._patience = 3 * poll_every + CYCLES_MISSED
        self._idle_because = idle_because
        self._asked_at = -ASK_EVERY
        self._reached = Check(well=False)
        self._lock = asyncio.Lock()

    async def live(self) -> Mapping[str, Check]:
        """Whether there is any point in letting this process live on."""
        lag = 0.0 if self._watch is None else self._watch.lag
        return {"loop": Check(lag < LAG_LIMIT, {"lag": round(lag, 3)})}

    async def ready(self) -> Mapping[str, Check]:
        """Whether this runner works on jobs."""
        idle_because = self._idle_because()
        return {
            "running": Check(idle_because is None, idle_because),
            "database": await self._database(),
            "notifications": self._notifications(),
            **{f"queue {producer.queue}": self._fetching(producer) for producer in self._producers()},
        }

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _database(self) -> Check:
        async with self._lock:  # whoever comes second gets the same answer
            if clock.monotonic() - self._asked_at < ASK_EVERY:
                return self._reached
            try:
                async with asyncio.timeout(REACHED_WITHIN):
                    await self._line.fetch(self._asking)
            except Exception as error:
                self._reached = Check(well=False, detail=describe(error))
            else:
                self._reached = Check(well=True)
            self._asked_at = clock.monotonic()
            return self._reached

    def _notifications(self) -> Check:
        if self._notifier.proven:
            return Check(well=True, detail="listening")
        if self._notifier.deaf:
            return Check(well=True, detail="polling")
        return Check(well=False, detail="connecting")

    def _fetching(self, producer: Producer) -> Check:
        if producer.cycled_at is None:
            return Check(well=False, detail="starting")
        age = clock.monotonic() - producer.cycled_at
        if age > self._patience:
            return Check(well=False, detail=f"nothing fetched or written for {span(age)}")
        return Check(well=True, detail="paused" if producer.paused else None)
