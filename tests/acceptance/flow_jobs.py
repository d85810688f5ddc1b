"""Members of workflows and batches that are run under faults, and random graphs of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Batch, Cancel, Job, Workflow, current_job, deps, enqueue, job, wait_for
from oban_sa.jobs.flow import EVENTS, Forgivable

Forgiven: TypeAlias = Forgivable | Iterable[Forgivable]

EFFECT = text("INSERT INTO effects (job_id) VALUES (:job_id)")

FORGIVEN: tuple[Forgiven, ...] = ((), (), (), ("discarded",), ("cancelled",), ("all",))


@job(queue="members", max_attempts=20, backoff=0)
async def plain(seconds: float) -> None:
    await asyncio.sleep(seconds)


@job(queue="members", max_attempts=20, backoff=0)
def in_thread(seconds: float) -> None:
    time.sleep(seconds)


@job(queue="members", max_attempts=20, backoff=0)
async def in_session(session: AsyncSession, seconds: float) -> None:
    """Write what has to be there as often as the job was completed."""
    await session.execute(EFFECT, {"job_id": current_job().id})
    await asyncio.sleep(seconds)


@job(queue="members", max_attempts=20, backoff=0)
async def grafting(session: AsyncSession, place: str, ending: list[int], seconds: float) -> None:
    """Fill a graft, in a transaction that stays open for a while; some attempts fail after it."""
    graft = deps().graft(place)
    for number, attempts in enumerate(ending):
        forgive = random.Random(current_job().id + number).choice(FORGIVEN)
        graft.add(f"{number}", failing.new(attempts, "raise"), deps=str(number - 1) if number else (), forgive=forgive)
    enqueue(session, graft)
    await session.execute(EFFECT, {"job_id": current_job().id})
    await asyncio.sleep(seconds)
    if random.random() < 0.2:
        raise RuntimeError("rolled back, with all that was grafted")


@job(queue="members", max_attempts=1)
async def failing(attempts: int, how: str) -> Cancel | None:
    """Fail so many attempts, of which one is made each time the workflow is retried."""
    await asyncio.sleep(0.002)
    if current_job().attempt > attempts:
        return None
    if how == "cancel":
        return Cancel("as it was asked to")
    raise RuntimeError("as it was asked to")


@job(queue="members", max_attempts=50, backoff=0)
async def signalled(seconds: float) -> None:
    await asyncio.sleep(seconds)
    assert await wait_for("go") is not None


@job(queue="callbacks", max_attempts=50, backoff=0)
async def callback() -> None:
    pass


def random_job(chance: random.Random) -> Job:
    """A job for any place in a workflow."""
    seconds = chance.choice([0, 0.01, 0.05, 0.3])
    kind = chance.random()
    if kind < 0.25:
        return failing.new(chance.choice([0, 1, 1, 2]), chance.choice(["raise", "raise", "cancel"]))
    if kind < 0.4:
        return signalled.new(seconds)
    if kind < 0.55:
        return in_thread.new(seconds)
    return in_session.new(seconds) if kind < 0.8 else plain.new(seconds)


def random_workflow(chance: random.Random, *, size: int, depth: int = 1) -> Workflow:
    """A workflow of so many parts, each of which waits for some of those before it."""
    flow = Workflow()
    for number in range(size):
        before = list(flow.parts)
        waits = chance.sample(before, min(len(before), chance.choice([0, 1, 1, 2, 3])))
        forgive: dict[str, Forgiven] = {each: chance.choice(FORGIVEN) for each in waits}
        kind, name = chance.random(), f"m{number}"
        if kind < 0.15:
            jobs = [random_job(chance) for _ in range(chance.randint(0, 4))]
            flow.add_many(name, jobs, deps=waits, forgive=forgive)
        elif kind < 0.3:
            place, ending = f"p{number}", [chance.choice([0, 0, 0, 1]) for _ in range(chance.choice([0, 1, 4]))]
            flow.add(name, grafting.new(place, ending, chance.choice([0, 0.05, 0.2])), deps=waits, forgive=forgive)
            flow.graft(place, by=name)
        elif kind < 0.4 and depth:
            inner = random_workflow(chance, size=chance.randint(1, 4), depth=0)
            flow.add_workflow(name, inner, deps=waits, forgive=forgive)
        else:
            flow.add(name, random_job(chance), deps=waits, forgive=forgive)
    return flow


def random_batch(chance: random.Random) -> Batch:
    """A batch with a job for each event."""
    jobs = [random_job(chance) for _ in range(chance.choice([0, 1, 3, 6]))]
    if chance.random() < 0.4:  # many that end at once, on several nodes
        jobs += [failing.new(chance.choice([0, 1]), chance.choice(["raise", "cancel"])) for _ in range(24)]
    return Batch(jobs, **{event: callback.new() for event in EVENTS})  # type: ignore[arg-type]
