"""What a producer says to the database, on a connection of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

import asyncpg

from oban_sa.describe.exceptions import describe
from oban_sa.jobs.durable import RELAY, WAITS_FOR
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.cluster.attempt_age import Written
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.prepared import Prepared
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.sessions.commit import true_start
from oban_sa.sql.ack import as_arrays, as_completed, note_error
from oban_sa.sql.attempt_age import revert
from oban_sa.sql.fence import held, unheard, wanted
from oban_sa.sql.fetch import BEGINNING, Position
from oban_sa.sql.flow import note
from oban_sa.sql.locks import locked
from oban_sa.sql.notify import NOTIFY, insertions
from oban_sa.sql.plan import Plan
from oban_sa.sql.producers import ProducerRow, leave, register
from oban_sa.sql.relay import tell
from oban_sa.sql.sequences import release, turn
from oban_sa.sql.signals import note_wait
from oban_sa.sql.unknown_workers import only_known, review

if TYPE_CHECKING:
    from oban_sa.jobs.keys import Paths
    from oban_sa.jobs.limits import Limits
    from oban_sa.runner.queue.limits import Limited

logger = logging.getLogger("oban_sa.runner")


class Tables:
    """The jobs of one queue and the row of one producer, whose `holder` is `[node, producer uuid]`.

    A statement that raises an error for which `is_away` holds may have been committed all the same.
    """

    def __init__(
        self,
        database: Database,
        queue: str,
        holder: list[str],
        *,
        schema: str,
        young: Written | None = None,
        plan: Plan | None = None,
        noted: Callable[[], object] = lambda: None,
    ) -> None:
        """`young` knows which attempts were kept young; `plan` says how the queue's jobs are taken and acked.

        `noted` is called once ends of members of flows were noted.
        """
        self._plan = plan or Plan()
        self._database = database
        self._noted = noted
        self._young = Written() if young is None else young
        self._queue = queue
        self._holder = holder
        self._producer = UUID(holder[1])
        self._news = insertions([queue], schema)
        self._line = database.line(keeps_plans=True)
        self._held = database.prepare(held)
        self._unheard = database.prepare(unheard)
        self._wanted = database.prepare(wanted)
        self._turn = database.prepare(turn)
        self._releasing = database.prepare(release)
        self._locked = database.prepare(locked)
        self._reverting = database.prepare(revert)
        self._note_error = database.prepare(note_error)
        self._registering = database.prepare(register)
        self._leaving = database.prepare(leave)
        self._announcing = database.prepare(NOTIFY)
        self._reviewing = database.prepare(review)
        self.limit(None)

    def limit(self, limited: Limited | None) -> None:
        """Fetch within limits from the next fetch on, or without."""
        plan = self._plan if limited is None else limited.plan(self._plan)
        self._limited = limited
        self._given: dict[str, object] = {**plan.parameters, "queue": self._queue, "producer": self._producer}
        self._plain = _Statements.of(self._database, plan)
        self._noting = _Statements.of(self._database, plan.with_follower(note))
        self._rare = _Statements.of(self._database, plan.with_follower(note, note_wait, tell))

    @property
    def are_planned(self) -> bool:
        """Whether `plan_anew` was called since the connection was made."""
        return self._line.is_planned

    async def connect(self) -> None:
        """Open the connection where there is none."""
        await self._line.ready()

    async def plan_anew(self) -> None:
        """Have the statements planned anew, for the table as it is by now."""
        await self._line.plan_anew()

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        demand: int,
        position: Position = BEGINNING,
        unknown: Mapping[str, object] | None = None,
    ) -> tuple[list[int], list[asyncpg.Record]]:
        """Write outcomes and fetch up to `demand` jobs, from `position` on, in one statement.

        Jobs of `unknown` workers, the parameters of `oban_sa.sql.unknown_workers.known`, are left where they are.
        Returns the ids of the jobs whose outcome was written, and rows in the order in which their jobs are begun.
        Within limits, what the answer tells of them is noted in the `Limited` that was given.
        """
        verdicts = [outcome.verdict for outcome in outcomes]
        noting = waiting = waited_for = False
        for outcome in outcomes:  # no call for each
            if meta := outcome.attempt.attempt.meta:
                noting = noting or LANE in meta
                waited_for = waited_for or RELAY in meta
            if (said := outcome.verdict.meta) and said.get(WAITS_FOR) is not None:
                noting = waiting = True
        statements = self._rare if waiting or waited_for else self._noting if noting else self._plain
        if not demand:
            if not verdicts:
                return [], []
            rows = await self._line.fetch(statements.ack, holder=self._holder, **as_arrays(verdicts))
            if noting:
                self._noted()
            return [row["id"] for row in rows], []
        fetches = statements.any_worker if unknown is None else statements.known_workers
        given: dict[str, object] = {
            **self._given,
            **(unknown or {}),
            "holder": self._holder,
            "demand": demand,
            "from_priority": position.priority,
            "from_scheduled_at": position.scheduled_at,
            "from_id": position.id,
        }
        if (limited := self._limited) is not None:
            given.update(limited.given())
        if not verdicts:
            rows = await self._line.fetch(fetches.fetch, **given)
        elif all(verdict.plain for verdict in verdicts):
            rows = await self._line.fetch(fetches.complete_and_fetch, **given, **as_completed(verdicts))
        else:
            rows = await self._line.fetch(fetches.ack_and_fetch, **given, **as_arrays(verdicts))
        if noting:
            self._noted()
        if limited is not None:
            rows = limited.hear(rows)
        if not verdicts:
            return [], in_order(rows)
        acked = [row["acked"] for row in rows if row["acked"] is not None]
        return acked, in_order([row for row in rows if row["acked"] is None])

    async def fetch_chunk(
        self, names: Sequence[str], key: str | None, by: Paths | None, demand: int
    ) -> list[asyncpg.Record]:
        """Fetch jobs for a chunk: up to `demand` of the worker with these names, and with a key."""
        from oban_sa.sql.chunk import fetch_chunk  # which few runners need

        given: dict[str, object] = {
            "queue": self._queue,
            "producer": self._producer,
            "holder": self._holder,
            "demand": demand,
            "from_priority": BEGINNING.priority,
            "from_scheduled_at": BEGINNING.scheduled_at,
            "from_id": BEGINNING.id,
            "chunk_workers": names,
        }
        if by is not None:
            given["chunk_key"] = key
        return in_order(await self._line.fetch(self._database.prepare(fetch_chunk, by), **given))

    async def reviewed(self) -> tuple[datetime, str | None]:
        """Return the database's now, and as JSON what each other producer of the queue does not know."""
        rows = await self._line.fetch(self._reviewing, queue=self._queue, producer=self._producer)
        return rows[0]["now"], rows[0]["others"]

    async def unheard(self, *, known: Sequence[int]) -> list[asyncpg.Record]:
        """Return the rows of jobs that this producer holds, but for those with `known` ids."""
        return await self._line.fetch(self._unheard, queue=self._queue, holder=self._holder, known=known)

    async def held(self, ids: Sequence[int]) -> set[tuple[int, datetime]]:
        """Return which attempts of this producer hold some jobs, by id and true start."""
        rows = await self._line.fetch(self._held, ids=ids, holder=self._holder)
        return {(row["id"], self._young.began_at(row["id"], row["attempted_at"])) for row in rows}

    async def wanted(self, ids: Sequence[int]) -> dict[tuple[int, datetime], bool]:
        """The same, and for each whether its job's cancellation was requested."""
        rows = await self._line.fetch(self._wanted, ids=ids, holder=self._holder)
        return {(row["id"], self._young.began_at(row["id"], row["attempted_at"])): row["called_off"] for row in rows}

    async def turn(self, ids: Sequence[int], *, unasked: Sequence[int]) -> list[asyncpg.Record]:
        """Ask whether it is the turn of jobs of sequences, and park the others; see `oban_sa.sql.sequences.turn`."""
        rows = await self._line.fetch(self._turn, ids=ids, unasked=unasked, holder=self._holder)
        limited = self._limited
        if limited is not None and limited.rate is not None:
            parked = [row["id"] for row in rows if row["turn"] is False]
            if parked:
                await self._give_back_starts(limited, limited.rate, parked)
        return rows

    async def _give_back_starts(self, limited: Limited, rate: Mapping[str, object], parked: list[int]) -> None:
        # Where no queue has limits, nothing of them is loaded.
        from oban_sa.sql.parked import give_back

        try:
            await self._line.fetch(self._database.prepare(give_back), ids=parked, **rate)
        except Exception as error:  # they count as started, which is the safe side
            logger.debug("could not give back the starts of parked jobs: %s", describe(error))
        else:
            limited.gave_back()

    async def release(self, keys: Sequence[str]) -> int:
        """Let the next jobs of some sequences be fetched: how many."""
        return len(await self._line.fetch(self._releasing, of_queue=self._queue, keys=keys))

    async def locked(self, ids: Sequence[int]) -> set[int]:
        """Return those of some jobs whose rows are locked by another transaction."""
        return {row["id"] for row in await self._line.fetch(self._locked, ids=ids)}

    async def revert(self, verdict: Verdict) -> bool:
        """Write the true start of an attempt that was kept young: whether it still holds its job."""
        while moments := self._young.of(verdict):
            if await self._line.fetch(self._reverting, **true_start(verdict, moments)):
                return True
            # A beat that was under way when the attempt ended may have come between.
            if self._young.of(verdict) == moments:
                break
        return False

    async def note(self, verdict: Verdict) -> bool:
        """Keep an attempt's error where its job was set cancelled meanwhile: whether it was."""
        start = true_start(verdict, self._young.of(verdict))
        del start["true_start"]
        return bool(await self._line.fetch(self._note_error, **start, text=verdict.error))

    async def register(self, row: ProducerRow) -> bool:
        """Write the producer's row: whether it is new."""
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


def in_order(rows: list[asyncpg.Record]) -> list[asyncpg.Record]:
    """Put fetched rows in the order in which their jobs are begun: RETURNING keeps none."""
    if len(rows) > 1:
        rows.sort(key=_URGENCY)
    return rows


_URGENCY: Final = itemgetter("priority", "scheduled_at", "id")


def of_beginning(database: Database, limits: Collection[Limits | None]) -> list[Prepared]:
    """Return the statements that producers begin with, for those who compile them ahead.

    `limits` are those of each queue. Statements within limits take twice as long to compile as plain ones.
    """
    return [database.prepare(register), *(database.prepare(Plan.fetch, plan) for plan in _plans(limits))]


def of_completion(database: Database, limits: Collection[Limits | None]) -> list[Prepared]:
    """Return what each producer says once its first jobs are completed."""
    return [database.prepare(Plan.complete_and_fetch, plan) for plan in _plans(limits)]


def _plans(limits: Collection[Limits | None]) -> set[Plan]:
    within = [each for each in limits if each is not None]
    plans = {Plan()} if len(within) < len(limits) else set[Plan]()
    if within:
        # Where no queue has limits, nothing of them is loaded.
        from oban_sa.sql.limits import Bounds

        plans |= {Plan().within(Bounds.of(each, "").filters, {}) for each in within}
    return plans


class _Statements(NamedTuple):
    """What a producer says, with the plan of its queue."""

    any_worker: _Fetches
    known_workers: _Fetches
    ack: Prepared

    @classmethod
    def of(cls, database: Database, plan: Plan) -> _Statements:
        return cls(
            _Fetches.of(database, plan),
            _Fetches.of(database, plan.with_filter(only_known())),
            database.prepare(Plan.ack, plan),
        )


class _Fetches(NamedTuple):
    """The fetch, alone and together with either kind of ack."""

    fetch: Prepared
    complete_and_fetch: Prepared
    ack_and_fetch: Prepared

    @classmethod
    def of(cls, database: Database, plan: Plan) -> _Fetches:
        return cls(
            *(database.prepare(make, plan) for make in (Plan.fetch, Plan.complete_and_fetch, Plan.ack_and_fetch))
        )
