"""Workflows and batches are worked off as promised, whatever becomes of the nodes that do it.

`OBAN_TEST_FLOWS` is how many random plans are carried out, each with nodes and a database of its own; one by default.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import ExitStack
from itertools import count
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Oban, enqueue
from oban_sa.errors import InvalidJob, JobNotFound, JobOver
from tests.acceptance.flow_history import NOTES, OPEN, UNFINISHED, WATCH, violations
from tests.acceptance.flow_jobs import plain, random_batch, random_workflow
from tests.support import Process, eventually, forked, plain_url

SEEDS = range(1, 1 + int(os.environ.get("OBAN_TEST_FLOWS", "1")))
STEPS = 40
"""What happens in a plan: one thing after the other."""

NODES = 3
PATIENCE = 180.0
FLAGS = (
    *("--queues", "members:8,callbacks:4", "--heartbeat-every", "0.3", "--dead-after", "2", "--grace", "0.3"),
    *("--stage-every", "0.2", "--poll-every", "0.5", "--prune", "never", "--log-level", "warning"),
    *("--import", "tests.acceptance.flow_jobs"),
)


class Plan:
    """Nodes that come and go, and a program that enqueues, cancels, retries, appends and sends signals beside them."""

    def __init__(self, url: str, engine: AsyncEngine, seed: int, stack: ExitStack) -> None:
        self._url = url
        self._engine = engine
        self._oban = Oban(engine)
        self._chance = random.Random(seed)
        self._stack = stack
        self._numbers = count()
        self._nodes: list[Process] = []
        self._stopped: list[Process] = []
        self._sent: set[int] = set()
        self.roots: list[UUID] = []
        self.cut: set[UUID] = set()
        self.did: list[str] = []

    def keep_nodes(self) -> None:
        """Start nodes in place of those that are gone."""
        self._nodes = [each for each in self._nodes if each.returncode is None]
        while len(self._nodes) < NODES:
            words = ["-m", "oban_sa.runner", "--node", f"node{next(self._numbers)}", *FLAGS]
            env = {"OBAN_DATABASE_URL": plain_url(self._url)}
            self._nodes.append(self._stack.enter_context(forked(words, env=env)))

    async def step(self) -> None:
        """Do one thing."""
        doing = self._chance.choices(
            [self.enqueue, self.kill, self.terminate, self.stop, self.go_on, self.cancel, self.retry, self.append],
            [10, 3, 2, 3, 4, 2, 6, 2],
        )[0]
        self.did.append(doing.__name__)
        await doing()
        if self._chance.random() < 0.3:
            await self.send(share=0.4)
        self.keep_nodes()
        await asyncio.sleep(self._chance.choice([0, 0.05, 0.2, 0.4]))

    async def enqueue(self) -> None:
        async with AsyncSession(self._engine) as session, session.begin():
            for _ in range(self._chance.randint(1, 5)):
                if self._chance.random() < 0.3:
                    batch = random_batch(self._chance)
                    enqueue(session, batch)
                    self.roots.append(batch.id)
                else:
                    flow = random_workflow(self._chance, size=self._chance.randint(2, 8))
                    enqueue(session, flow)
                    self.roots.append(flow.id)

    async def kill(self) -> None:
        self._chance.choice(self._nodes).kill()

    async def terminate(self) -> None:
        self._chance.choice(self._nodes).terminate()

    async def stop(self) -> None:
        node = self._chance.choice(self._nodes)
        node.send(signal.SIGSTOP)
        self._stopped.append(node)

    async def go_on(self) -> None:
        while self._stopped:
            node = self._stopped.pop()
            if node.returncode is None:
                node.send(signal.SIGCONT)

    async def cancel(self) -> None:
        if self.roots:
            root = self._chance.choice(self.roots[-8:])
            self.cut.add(root)
            await self._oban.cancel_workflow(root)

    async def retry(self) -> None:
        if self.roots:
            root = self._chance.choice(sorted(self.cut) if self.cut and self._chance.random() < 0.5 else self.roots)
            from_ = self._chance.choice([None, None, None, "m0", "m1"])
            try:
                await self._oban.retry_workflow(root, from_=from_)
            except JobNotFound:
                return
            # Those of its members that wait for a signal need another one.
            rows = "SELECT m.job_id FROM oban_sa_members m JOIN oban_sa_flows f ON f.id = m.flow_id WHERE root_id = :id"
            async with self._engine.connect() as connection:
                self._sent -= set(await connection.scalars(text(rows), {"id": root}))
            await self.send(share=0.8)

    async def append(self) -> None:
        if self.roots:
            root, name = self._chance.choice(self.roots[-4:]), f"late {len(self.did)}"
            deps = self._chance.choice([(), (), "m0"])
            async with AsyncSession(self._engine) as session:
                try:
                    await self._oban.append(session, root, name, plain.new(0.0), deps=deps, forgive="all")
                except InvalidJob:  # it is over, or has no member of this name
                    return
                await asyncio.sleep(self._chance.choice([0, 0.1, 0.4]))
                await session.commit()

    async def send(self, *, share: float) -> None:
        """Send their signal to some of those that need one, in a transaction that stays open for a moment."""
        over = "'completed', 'cancelled', 'discarded'"
        ids = f"SELECT id FROM oban_jobs WHERE worker LIKE '%.signalled' AND state NOT IN ({over}) ORDER BY id"
        async with AsyncSession(self._engine) as session, session.begin():
            waiting = list(await session.scalars(text(ids)))
            for job in waiting:
                if job not in self._sent and self._chance.random() < share:
                    try:
                        await self._oban.signal(job, "go", session=session)
                    except JobOver:
                        continue
                    self._sent.add(job)
            await asyncio.sleep(self._chance.choice([0, 0.01, 0.05]))


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
async def test_workflows_and_batches_end_as_promised_whatever_becomes_of_nodes(
    database_url: str, engine: AsyncEngine, seed: int
) -> None:
    connection = await asyncpg.connect(plain_url(database_url))
    await connection.execute(WATCH)
    with ExitStack() as stack:
        plan = Plan(database_url, engine, seed, stack)
        await plan.enqueue()
        plan.keep_nodes()
        for _ in range(STEPS):
            await plan.step()
        await plan.go_on()

        async def over() -> None:
            plan.keep_nodes()
            await plan.send(share=1.0)
            for query in (UNFINISHED, OPEN, NOTES):
                left = await connection.fetch(query)
                assert not left, (query, len(left), left[:10], plan.did)

        begun = time.monotonic()
        await eventually(over, PATIENCE, every=0.2)
        print(f"seed {seed}: {len(plan.roots)} trees, over {time.monotonic() - begun:.1f} s after the last fault")
    assert await violations(connection, plan.cut) == []
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert await connection.fetchval(deadlocks) == 0
    await connection.close()
