"""What a producer says to the database, on a connection of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from oban_sa.runner.acker import Outcome, as_arrays, as_completed
from oban_sa.runner.database import Database
from oban_sa.runner.rows import in_order
from oban_sa.runner.settling import true_start
from oban_sa.runner.young import Written
from oban_sa.sql.acking import acking, acking_and_fetching, completing_and_fetching, noting
from oban_sa.sql.fetching import BEGINNING, Place, fetching
from oban_sa.sql.holding import holding, unheard, wanting
from oban_sa.sql.keeping import reverting
from oban_sa.sql.locking import locked
from oban_sa.sql.notifying import NOTIFY, insertions
from oban_sa.sql.producing import leaving, registering
from oban_sa.sql.unknown import known, reviewing
from oban_sa.verdicts import Verdict


class Tables:
    """The jobs of one queue and the row of one producer, whose `holder` is `[node, producer uuid]`.

    Whatever raises an error for which `is_away` holds may have been committed all the same.
    """

    def __init__(
        self, database: Database, queue: str, holder: list[str], *, schema: str, young: Written | None = None
    ) -> None:
        """`young` knows which attempts were kept young."""
        self._young = Written() if young is None else young
        self._queue = queue
        self._holder = holder
        self._producer = UUID(holder[1])
        self._news: dict[str, Any] = insertions([queue], schema)
        self._line = database.line(keeps_plans=True)
        self._fetching = database.prepare(fetching)
        self._acking = database.prepare(acking)
        self._completing_and_fetching = database.prepare(completing_and_fetching)
        self._acking_and_fetching = database.prepare(acking_and_fetching)
        self._known_only = tuple(
            database.prepare(cycle, known()) for cycle in (fetching, completing_and_fetching, acking_and_fetching)
        )
        self._holding = database.prepare(holding)
        self._unheard = database.prepare(unheard)
        self._wanting = database.prepare(wanting)
        self._locked = database.prepare(locked)
        self._reverting = database.prepare(reverting)
        self._noting = database.prepare(noting)
        self._registering = database.prepare(registering)
        self._leaving = database.prepare(leaving)
        self._announcing = database.prepare(NOTIFY)
        self._reviewing = database.prepare(reviewing)

    async def plan_anew(self) -> None:
        """Have the statements planned anew, for the table as it is by now."""
        await self._line.plan_anew()

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        demand: int,
        place: Place = BEGINNING,
        unknown: Mapping[str, Any] | None = None,
    ) -> tuple[list[int], list[asyncpg.Record]]:
        """Write outcomes and fetch up to `demand` jobs, from `place` on, in one statement.

        Jobs of `unknown` workers, the parameters of `oban_sa.sql.unknown.known`, are left where they are.
        Returns the ids of those that were written, and rows in the order in which their jobs are to be begun.
        """
        wanted: dict[str, Any] = {
            "queue": self._queue,
            "producer": self._producer,
            "demand": demand,
            "from_priority": place.priority,
            "from_scheduled_at": place.scheduled_at,
            "from_id": place.id,
        }
        fetching, completing, acking = self._fetching, self._completing_and_fetching, self._acking_and_fetching
        if unknown is not None:
            wanted |= unknown
            fetching, completing, acking = self._known_only
        if not outcomes:
            return [], in_order(await self._line.fetch(fetching, holder=self._holder, **wanted))
        plain = demand and all(outcome.verdict.plain for outcome in outcomes)
        said: dict[str, Any] = as_completed(outcomes) if plain else as_arrays(outcomes)
        if not demand:
            return [row["id"] for row in await self._line.fetch(self._acking, holder=self._holder, **said)], []
        rows = await self._line.fetch(completing if plain else acking, holder=self._holder, **wanted, **said)
        acked = [row["acked"] for row in rows if row["acked"] is not None]
        return acked, in_order([row for row in rows if row["acked"] is None])

    async def reviewed(self) -> tuple[datetime, str | None]:
        """Return the database's now, and as JSON what each other producer of the queue does not know."""
        rows = await self._line.fetch(self._reviewing, queue=self._queue, producer=self._producer)
        return rows[0]["now"], rows[0]["others"]

    async def unheard(self, *, known: Sequence[int]) -> list[asyncpg.Record]:
        """Return the rows that are held here by the tables and whose ids are not among the `known` ones."""
        return await self._line.fetch(self._unheard, queue=self._queue, holder=self._holder, known=known)

    async def held(self, ids: Sequence[int]) -> set[tuple[int, datetime]]:
        """Return which attempts at some jobs hold them here."""
        rows = await self._line.fetch(self._holding, ids=ids, holder=self._holder)
        return {(row["id"], self._young.began_at(row["id"], row["attempted_at"])) for row in rows}

    async def wanted(self, ids: Sequence[int]) -> dict[tuple[int, datetime], bool]:
        """Return which attempts at some jobs hold them here, and whether they were called off."""
        rows = await self._line.fetch(self._wanting, ids=ids, holder=self._holder)
        return {(row["id"], self._young.began_at(row["id"], row["attempted_at"])): row["called_off"] for row in rows}

    async def locked(self, ids: Sequence[int]) -> set[int]:
        """Return those of some jobs whose row somebody else holds a lock on."""
        return {row["id"] for row in await self._line.fetch(self._locked, ids=ids)}

    async def revert(self, verdict: Verdict) -> bool:
        """Write the true start of an attempt that was kept young; whether it still holds its job."""
        while moments := self._young.of(verdict):
            if await self._line.fetch(self._reverting, **true_start(verdict, moments)):
                return True
            # A beat that was under way when the attempt ended may have come between.
            if self._young.of(verdict) == moments:
                break
        return False

    async def note(self, verdict: Verdict) -> bool:
        """Keep an attempt's error where somebody has set its job cancelled; whether it was."""
        start = true_start(verdict, self._young.of(verdict))
        del start["true_start"]
        return bool(await self._line.fetch(self._noting, **start, text=verdict.error))

    async def register(self, row: Mapping[str, Any]) -> bool:
        """Write the producer's row; whether there was none before."""
        rows = await self._line.fetch(self._registering, **row)
        return bool(rows[0]["fresh"])

    async def announce(self) -> None:
        """Tell every node that the queue has available jobs."""
        await self._line.fetch(self._announcing, **self._news)

    async def leave(self, uuid: UUID) -> None:
        """Remove the producer's row."""
        await self._line.fetch(self._leaving, uuids=[uuid])

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
