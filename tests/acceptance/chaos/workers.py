"""The jobs of a run. What each attempt does stands in its args, so that it follows from the seed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Job, Record, Snooze, enqueue, worker
from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.attempts import FOREVER, Planned, busy, recorded

TABLES = (
    # Without a key: what happens twice has to show, not to fail.
    (
        "CREATE TABLE chaos_effects (job_id bigint NOT NULL, attempt int NOT NULL, holder text NOT NULL,"
        " txid bigint NOT NULL DEFAULT txid_current())"
    ),
)

EFFECT = text("INSERT INTO chaos_effects (job_id, attempt, holder) VALUES (:job_id, :attempt, :holder)")


@contextmanager
def attempt(job: Job) -> Iterator[None]:
    """Write down an attempt, which fails where its job's args say so."""
    with recorded(job, job.args["key"]):
        if job.attempt in job.args.get("fail", ()):
            # Before the code's own rest, so that an attempt that fails leaves nothing to be told apart.
            raise Planned(f"attempt {job.attempt} fails on purpose")
        yield


def effect(job: Job) -> dict[str, Any]:
    """The parameters of `EFFECT`."""
    return {"job_id": job.id, "attempt": job.attempt, "holder": (job.attempted_by or ["", ""])[1]}


class Often:
    """An attempt that fails is made again soon."""

    def backoff(self, job: Job) -> float:
        return float(job.args.get("backoff", 0.2))


@worker(queue="quick", max_attempts=FOREVER)
class Steady(Often):
    """Rests a while."""

    async def process(self, job: Job) -> None:
        with attempt(job):
            await asyncio.sleep(job.args["rest"])


@worker(queue="quick", max_attempts=FOREVER)
class Snoozing(Often):
    """Snoozes a few times, and then takes long: an outcome of before that comes late finds it running."""

    async def process(self, job: Job) -> Snooze | None:
        with attempt(job):
            times = job.meta.get("snoozed", 0)
            if times >= job.args["snoozes"]:
                await asyncio.sleep(job.args["rest"])
                return None
            await asyncio.sleep(min(0.05, job.args["rest"]))
            return Snooze(job.args["snooze"])


@worker(queue="quick", max_attempts=FOREVER)
class Recording(Often):
    """Keeps a value."""

    async def process(self, job: Job) -> Record:
        with attempt(job):
            await asyncio.sleep(job.args["rest"])
            return Record({"key": job.args["key"]})


@worker(queue="slow", max_attempts=FOREVER)
class Lengthy(Often):
    """Takes long."""

    async def process(self, job: Job) -> None:
        with attempt(job):
            await asyncio.sleep(job.args["rest"] * 8)


@worker(queue="slow", max_attempts=FOREVER)
class InThread(Often):
    """Rests in a thread."""

    def process(self, job: Job) -> None:
        with attempt(job):
            busy(job.args["rest"] * 2)


@worker(queue="slow", max_attempts=FOREVER)
class Blocking(Often):
    """Blocks the event loop of its runner, at times for longer than a silent node lives."""

    async def process(self, job: Job) -> None:
        with attempt(job):
            time.sleep(job.args["rest"] * 7)  # noqa: ASYNC251 - a mistake that people make


@worker(queue="sessions", max_attempts=FOREVER)
class Effect(Often):
    """Leaves a row, and at times another job."""

    async def process(self, job: Job, session: AsyncSession) -> None:
        with attempt(job):
            await asyncio.sleep(job.args["rest"] / 2)
            await session.execute(EFFECT, effect(job))
            if job.args.get("child"):
                enqueue(session, Steady.new({"key": f"child of {job.args['key']}", "rest": 0.01}))
                await session.flush()
            await asyncio.sleep(job.args["rest"] / 2)


@worker(queue="sessions", max_attempts=FOREVER)
class EffectInThread(Often):
    """The same, from a thread."""

    def process(self, job: Job, session: Session) -> None:
        with attempt(job):
            busy(job.args["rest"] / 2)
            session.execute(EFFECT, effect(job))
            if job.args.get("child"):
                enqueue(session, Steady.new({"key": f"child of {job.args['key']}", "rest": 0.01}))
            busy(job.args["rest"] / 2)


@worker(queue="sessions", max_attempts=FOREVER)
class EffectThenSnooze(Often):
    """Leaves a row only once it has snoozed."""

    async def process(self, job: Job, session: AsyncSession) -> Snooze | None:
        with attempt(job):
            if job.meta.get("snoozed", 0) < job.args["snoozes"]:
                await session.execute(text("SELECT 1"))
                return Snooze(job.args["snooze"])
            await session.execute(EFFECT, effect(job))
            await asyncio.sleep(job.args["rest"])
            return None


@worker(queue="single", max_attempts=FOREVER)
class Alone(Often):
    """Is never beside another one on a node."""

    async def process(self, job: Job) -> None:
        with attempt(job):
            await asyncio.sleep(job.args["rest"])


@worker(queue="odd", max_attempts=FOREVER, executor="process")
class InProcess(Often):
    """Rests in a process of its own."""

    def process(self, job: Job) -> None:
        with attempt(job):
            busy(job.args["rest"])


@worker(queue="odd", max_attempts=3, executor="process")
class KillsItsProcess(Often):
    """Ends the process that it was given, and so fails."""

    def process(self, job: Job) -> None:
        with attempt(job):
            os._exit(3)


@worker(queue="odd", max_attempts=2)
class Poison(Often):
    """Kills its runner on every attempt."""

    async def process(self, job: Job) -> None:
        with attempt(job):
            ledger.write("poison", job=job.id, attempt=job.attempt, node=job.attempted_by[0])
            os._exit(7)
