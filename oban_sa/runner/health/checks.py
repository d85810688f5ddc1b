"""The reports of a runner's health: `/live` and `/ready`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from oban_sa.describe.exceptions import describe
from oban_sa.runner.cluster.notifier import Notifier
from oban_sa.runner.database.database import Database
from oban_sa.runner.health.check import Check
from oban_sa.runner.health.loop_lag import Watch
from oban_sa.runner.maintenance.ticker import Ticker
from oban_sa.runner.queue.producer import Producer
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe as span
from oban_sa.sql.rights import NOT_GRANTED, functions

REACHED_WITHIN = 2.0
"""Seconds in which the database must have answered."""

ASK_EVERY = 1.0
"""Seconds for which an answer of the database is given again, however often probes ask."""

LAG_LIMIT = 10.0
"""Seconds of lag from which on the loop counts as dead."""

CYCLES_MISSED = 5.0
"""Seconds without a cycle, beside three times the interval of polling, after which a queue is not ready."""

FAILS_FOR = 10.0
"""Seconds without success after which a part counts as failing."""

MOST_NAMED = 10
"""Workers that are named of those that this program does not know."""


class Checks:
    """`live`: the event loop turns. `ready`: all that jobs need to start works."""

    def __init__(
        self,
        database: Database,
        *,
        notifier: Notifier,
        producers: Callable[[], Iterable[Producer]],
        parts: Callable[[], Iterable[Ticker]],
        needs: Mapping[str, object],
        watch: Watch | None,
        poll_every: float,
        idle_because: Callable[[], str | None],
        namesake: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`needs` are the parameters of `NOT_GRANTED`, `parts` returns those that jobs can't do without.

        `idle_because` says why the runner does not work, as where it stops, or None. `namesake` names the
        queues that another living node of this node's name works on.
        """
        self._namesake = namesake
        self._line = database.line()
        self._asking = database.prepare(NOT_GRANTED)
        self._needs = dict(needs)
        self._parts = parts
        self._notifier = notifier
        self._producers = producers
        self._watch = watch
        self._patience = 3 * poll_every + CYCLES_MISSED
        self._idle_because = idle_because
        self._asked_at = -ASK_EVERY
        self._reached = Check(well=False)
        self._rights = Check(well=False)
        self._lock = asyncio.Lock()

    async def live(self) -> Mapping[str, Check]:
        """Whether this process should go on: the event loop turns."""
        lag = 0.0 if self._watch is None else self._watch.lag
        return {"loop": Check(lag < LAG_LIMIT, {"lag": round(lag, 3)})}

    async def ready(self) -> Mapping[str, Check]:
        """Whether this runner works on jobs."""
        idle_because = self._idle_because()
        return {
            "running": Check(idle_because is None, idle_because),
            **self._name(),
            "database": await self._database(),
            "rights": self._rights,
            "notifications": self._notifications(),
            **{part.name: Check(well=False, detail=why) for part in self._parts() if (why := _failing(part))},
            **{f"queue {producer.queue}": self._fetching(producer) for producer in self._producers()},
        }

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()

    async def _database(self) -> Check:
        async with self._lock:  # probes that come meanwhile get the same answer
            if clock.monotonic() - self._asked_at < ASK_EVERY:
                return self._reached
            limited = any(producer.limits is not None for producer in self._producers())
            try:
                async with asyncio.timeout(REACHED_WITHIN):
                    rows = await self._line.fetch(self._asking, **self._needs | functions(limits=limited))
            except Exception as error:
                self._reached = Check(well=False, detail=describe(error))
            else:
                self._reached = Check(well=True)
                lacking = [row["lacking"] for row in rows]
                self._rights = Check(not lacking, "lacks " + ", ".join(lacking) if lacking else None)
            self._asked_at = clock.monotonic()
            return self._reached

    def _name(self) -> Mapping[str, Check]:
        # Well all the same: it works on jobs, and without both there would be fewer nodes, not better ones.
        if not (queues := self._namesake()):
            return {}
        return {"name": Check(well=True, detail=f"another living node has this name and works on {', '.join(queues)}")}

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
        said = ["paused"] if producer.paused else []
        if unknown := producer.unknown.names():
            named = ", ".join(str(each) for each in unknown[:MOST_NAMED])
            more = f" and {len(unknown) - MOST_NAMED} more" if len(unknown) > MOST_NAMED else ""
            said.append(f"jobs wait for a program that knows {named}{more}")
        return Check(well=True, detail="; ".join(said) or None)


def _failing(part: Ticker) -> str | None:
    if part.failing is None:
        return None
    since, why = part.failing
    age = clock.monotonic() - since
    return f"has failed for {span(age)}: {why}" if age > FAILS_FOR else None
