"""Workers that the tests of `oban_sa.testing` run."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Record, Snooze, Worker, current_job, enqueue, job, worker
from oban_sa.workers import Registry

registry = Registry()


@worker(queue="mail", max_attempts=3, tags=["post"], registry=registry)
class Echo:
    async def process(self, job: Job) -> Any:
        return {"args": job.args, "attempt": job.attempt, "meta": job.meta, "same": current_job() is job}


@dataclass
class Order:
    id: UUID
    amount: int


@worker(registry=registry)
class Ship(Worker[Order]):
    async def process(self, args: Order) -> Any:
        return args


@job(registry=registry)
def add(one: int, other: int = 2) -> int:
    return one + other


@job(registry=registry)
def where_am_i() -> str:
    return threading.current_thread().name


@job(registry=registry, max_attempts=2, backoff=60)
async def fail(message: str = "no luck") -> None:
    raise RuntimeError(message)


@job(registry=registry)
async def snooze() -> Snooze:
    return Snooze(60)


@job(registry=registry)
async def cancel() -> Cancel:
    return Cancel("not wanted")


@job(registry=registry)
async def record(value: Any) -> Record:
    return Record(value)


@job(registry=registry)
async def count_jobs(session: AsyncSession) -> int:
    return len((await session.scalars(select(Job))).all())


@job(registry=registry)
async def follow(session: AsyncSession, depth: int) -> None:
    """Write something, and enqueue the same with one less."""
    if depth:
        enqueue(session, follow.new(depth=depth - 1))


@job(registry=registry)
def follow_sync(session: Session, depth: int) -> None:
    if depth:
        enqueue(session, follow_sync.new(depth=depth - 1))


@job(registry=registry)
async def write_and_fail(session: AsyncSession) -> None:
    enqueue(session, Job("never", queue="never"))
    await session.flush()
    raise RuntimeError("after writing")
