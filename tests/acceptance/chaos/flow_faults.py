"""What else is done to workflows and batches: cancel them, run them again, add to them, and lock their jobs."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.errors import InvalidJob, JobNotFound
from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.faults import Faults
from tests.acceptance.chaos.flow_enqueuing import Roots
from tests.acceptance.chaos.flow_jobs import plain

_LOCK: Final = text(
    "SELECT id FROM oban_jobs WHERE state::text = 'suspended' ORDER BY id LIMIT :count FOR UPDATE SKIP LOCKED"
)


class FlowFaults(Faults):
    """The faults of one run of this kind. Each call is made once, and whether it was done is not looked at."""

    def __init__(self, *, roots: Roots, draw: random.Random, **others: Any) -> None:
        super().__init__(draw=draw, **others)
        self._roots = roots
        self._cut: list[UUID] = []
        self._names = itertools.count()

    async def _cut_flow(self, newest: int) -> None:
        root = self._roots.chosen(self._draw, newest=newest)
        self._cut.append(root)
        ledger.write("cutting", root=str(root))
        await self._oban.cancel_workflow(root)
        ledger.write("cut", root=str(root))

    async def _retry_flow(self, newest: int, cut: bool, from_: str | None) -> None:
        root = self._draw.choice(self._cut) if cut and self._cut else self._roots.chosen(self._draw, newest=newest)
        ledger.write("retrying flow", root=str(root), from_=from_)
        try:
            await self._oban.retry_workflow(root, from_=from_)
        except JobNotFound:  # it has no member of this name
            return

    async def _append(self, newest: int, deps: str, seconds: float) -> None:
        root, name = self._roots.chosen(self._draw, newest=newest), f"late {next(self._names)}"
        async with AsyncSession(self._engine) as session:
            try:
                await self._oban.append(session, root, name, plain.new(0.0), deps=deps or (), forgive="all")
            except InvalidJob:  # it is over, or has no member of this name
                return
            await asyncio.sleep(seconds)
            await session.commit()

    async def _lock_rows(self, count: int, times: int, seconds: float) -> None:
        for _ in range(times):
            async with self._engine.begin() as connection:
                await connection.execute(_LOCK, {"count": count})
                await asyncio.sleep(seconds)
            await asyncio.sleep(0.02)
