"""Those who write workflows and batches, and send signals to their members."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Batch, Oban, Workflow, enqueue
from oban_sa.errors import JobNotFound, JobOver
from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.enqueuing import CROWDED, Crowd
from tests.acceptance.chaos.flow_jobs import random_batch, random_fan, random_workflow

AWAY: Final = (OSError, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What is raised where the server is away, or a connection broke."""

How: TypeAlias = Literal["commit", "rollback", "savepoint"]

_STATUS: Final = text("SELECT txid_status(CAST(:number AS bigint))")
_THERE: Final = text("SELECT id FROM oban_sa_flows WHERE id = ANY (:ids)")
_WAITING: Final = text(
    "SELECT id, state::text, attempt > 0 OR meta ? 'journal' AS begun FROM oban_jobs j WHERE worker LIKE '%.signalled'"
    " AND state NOT IN ('completed', 'cancelled', 'discarded')"
    " AND NOT EXISTS (SELECT FROM oban_sa_signals s WHERE s.job_id = j.id)"
    " AND NOT EXISTS (SELECT FROM oban_sa_journal e WHERE e.job_id = j.id AND e.done) ORDER BY id"
)
"""Jobs that want a signal, of which none was sent yet: where a sleeper misses its signal, it gets no second one."""


class Roots:
    """The workflows and batches that are known to be committed."""

    def __init__(self) -> None:
        self._ids: list[UUID] = []

    def add(self, ids: Sequence[UUID]) -> None:
        """Take note of some."""
        self._ids += ids

    def chosen(self, draw: random.Random, *, newest: int) -> UUID:
        """Return one of the newest; raises LookupError where there is none yet."""
        if not self._ids:
            raise LookupError("nothing is committed yet")
        return draw.choice(self._ids[-newest:])


class FlowEnqueuer:
    """Writes until it is told to stop. Where it loses the answer to a commit it looks whether that was done."""

    def __init__(
        self, engine: AsyncEngine, *, looking: AsyncEngine, draw: random.Random, roots: Roots, crowd: Crowd
    ) -> None:
        """`engine` loses answers, `looking` does not."""
        self._engine = engine
        self._looking = looking
        self._draw = draw
        self._roots = roots
        self._crowd = crowd

    async def run(self) -> None:
        """Go on with one transaction after another, waiting while too many jobs do."""
        while not self._crowd.over:
            if self._crowd.waiting > CROWDED:
                await asyncio.sleep(0.1)
                continue
            how: How = self._draw.choices(("commit", "rollback", "savepoint"), (80, 10, 10))[0]
            seed, rest = self._draw.random(), self._draw.uniform(0.2, 1.2)
            # What is known to be rolled back is written again, as an application does.
            while not await self._is_done(seed, how):  # noqa: ASYNC110 - it is tried, not waited for
                await asyncio.sleep(0.2)
            await asyncio.sleep(rest)

    async def _is_done(self, seed: float, how: How) -> bool:
        """Write what a seed says: whether it is there, or was rolled back on purpose."""
        flows = _random(random.Random(seed))
        ids = [flow.id for flow in flows]
        try:
            number = await self._commit(flows, how)
        except AWAY as error:
            # Before the commit was sent.
            ledger.write("undone", keys=[str(each) for each in ids], why=_first_line(error))
            return self._crowd.over
        if how == "rollback":
            ledger.write("undone", keys=[str(each) for each in ids])
            return True
        if how == "savepoint":
            ledger.write("undone", keys=[str(ids.pop(0))])
        if number is not None and ids and not await self._is_there(ids, number):
            ledger.write("undone", keys=[str(each) for each in ids], why="a commit without an answer was none")
            return self._crowd.over
        ledger.write("committed", keys=[str(each) for each in ids])
        self._roots.add(ids)
        return True

    async def _commit(self, flows: Sequence[Workflow | Batch], how: How) -> int | None:
        """Write flows: the number of the transaction where the answer to its commit was lost."""
        async with AsyncSession(self._engine) as session:
            if how == "savepoint":
                nested = await session.begin_nested()
                enqueue(session, flows[0])
                await session.flush()
                await nested.rollback()
            for flow in flows[1:] if how == "savepoint" else flows:
                enqueue(session, flow)
            await session.flush()
            number = int(await session.scalar(text("SELECT txid_current()")) or 0)
            if how == "rollback":
                await session.rollback()
                return None
            try:
                await session.commit()
            except AWAY as error:
                ledger.write("unknown", keys=[str(flow.id) for flow in flows], why=_first_line(error))
                return number
        return None

    async def _is_there(self, ids: Sequence[UUID], number: int) -> bool:
        """Whether a transaction of whose commit nothing is known was committed, once it is over."""
        while True:
            try:
                async with self._looking.connect() as connection:
                    try:
                        status = await connection.scalar(_STATUS, {"number": number})
                    except DBAPIError as error:
                        if "in the future" not in str(error):
                            raise
                        # A crash forgets the numbers of what it rolled back.
                        await connection.rollback()
                        status = "aborted"
                    if status != "in progress":
                        return bool((await connection.scalars(_THERE, {"ids": list(ids)})).all())
            except AWAY:
                pass
            await asyncio.sleep(0.1)


class Sender:
    """Sends each member that waits for a signal one, in transactions that stay open for a moment."""

    def __init__(self, engine: AsyncEngine, *, draw: random.Random, crowd: Crowd) -> None:
        self._engine = engine
        self._oban = Oban(engine)
        self._draw = draw
        self._crowd = crowd

    async def run(self) -> None:
        """Go on until this is cancelled; once nothing more is enqueued, all get their signal."""
        while True:
            await asyncio.sleep(self._draw.uniform(0.02, 0.3))
            try:
                await self._send()
            except AWAY:
                continue

    async def _send(self) -> None:
        async with AsyncSession(self._engine) as session, session.begin():
            for row in (await session.execute(_WAITING)).all():
                # Most while they run, as they may just be about to wait.
                share = 0.5 if row.state == "executing" else 0.1 if row.begun else 0.01
                if self._crowd.over or self._draw.random() < share:
                    payload = f"{row.id} {self._draw.random()}"
                    try:
                        await self._oban.signal(row.id, "go", payload, session=session)
                    except (JobOver, JobNotFound):
                        continue
            await asyncio.sleep(self._draw.choice([0, 0.01, 0.05]))


def _random(chance: random.Random) -> list[Workflow | Batch]:
    flows: list[Workflow | Batch] = []
    for _ in range(chance.randint(1, 3)):
        kind = chance.random()
        if kind < 0.3:
            flows.append(random_batch(chance))
        elif kind < 0.4:
            flows.append(random_fan(chance))
        else:
            flows.append(random_workflow(chance, size=chance.randint(2, 8)))
    return flows


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
