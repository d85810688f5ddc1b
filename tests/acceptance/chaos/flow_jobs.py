"""Members of workflows and batches that are run under faults, and random graphs of them.

What each attempt does follows from its job's args, for the most part. It writes down when it begins and ends, and what
it was told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Batch, Cancel, Job, Workflow, current_job, deps, enqueue, job, sleep, step, wait_for
from oban_sa.errors import Suspended
from oban_sa.jobs.flow import EVENTS, Forgivable
from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.attempts import FOREVER, Planned, busy, recorded

Forgiven: TypeAlias = Forgivable | Iterable[Forgivable]

QUEUES = {"members": 8, "callbacks": 4}
"""Queues of every runner and their limits."""

TABLES = (
    # Without keys: what happens twice has to show, not to fail.
    "CREATE TABLE chaos_effects (job_id bigint NOT NULL, txid bigint NOT NULL DEFAULT txid_current())",
    "CREATE TABLE chaos_steps (job_id bigint NOT NULL, name text NOT NULL)",
)

EFFECT = text("INSERT INTO chaos_effects (job_id) VALUES (:job_id)")
STEP = text("INSERT INTO chaos_steps (job_id, name) VALUES (:job_id, :name)")

FORGIVEN: tuple[Forgiven, ...] = ((), (), (), ("discarded",), ("cancelled",), ("all",))


@contextmanager
def attempt() -> Iterator[Job]:
    """Write down the attempt that runs here."""
    job = current_job()
    with recorded(job, str(job.id)):
        yield job


@job(queue="members", max_attempts=FOREVER, backoff=0)
async def plain(seconds: float) -> None:
    with attempt():
        await asyncio.sleep(seconds)


@job(queue="members", max_attempts=FOREVER, backoff=0)
def in_thread(seconds: float) -> None:
    with attempt():
        busy(seconds)


@job(queue="members", max_attempts=FOREVER, backoff=0)
async def in_session(session: AsyncSession, seconds: float) -> None:
    """Write what has to be there as often as the job was completed."""
    with attempt() as job:
        await session.execute(EFFECT, {"job_id": job.id})
        await asyncio.sleep(seconds)


@job(queue="members", max_attempts=FOREVER, backoff=0)
async def grafting(session: AsyncSession, place: str, ending: list[int], seconds: float) -> None:
    """Fill a graft, in a transaction that stays open for a while; some attempts fail after it."""
    with attempt() as job:
        graft = deps().graft(place)
        for number, attempts in enumerate(ending):
            forgive = random.Random(job.id + number).choice(FORGIVEN)
            waits = str(number - 1) if number else ()
            graft.add(f"{number}", failing.new(attempts, "raise"), deps=waits, forgive=forgive)
        enqueue(session, graft)
        await session.execute(EFFECT, {"job_id": job.id})
        await asyncio.sleep(seconds)
        if random.random() < 0.2:
            raise Planned("rolled back, with all that was grafted")


@job(queue="members", max_attempts=1)
async def failing(attempts: int, how: str) -> Cancel | None:
    """Fail so many attempts, of which one is made each time the workflow is retried."""
    with attempt() as job:
        await asyncio.sleep(0.002)
        if job.attempt > attempts:
            return None
        if how == "cancel":
            ledger.write("cancelling", job=job.id)
            return Cancel("as it was asked to")
        raise Planned("as it was asked to")


@job(queue="members", max_attempts=FOREVER, backoff=0)
async def signalled(seconds: float, within: float | None) -> None:
    """Wait for a signal; an attempt that is suspended takes a while to end, as one that closes what it has opened."""
    with attempt() as job:
        await asyncio.sleep(seconds)
        try:
            answer = await wait_for("go", within=within)
        except Suspended:
            # Long enough that a signal often comes, and is booked, just now.
            await asyncio.sleep(max(seconds, 1.0))
            raise
        ledger.write("answered", job=job.id, payload=answer and answer.payload)


@job(queue="members", max_attempts=FOREVER, backoff=0)
async def stepping(session: AsyncSession, seconds: float, pause: float) -> None:
    """Take steps, with the session and without, and sleep between them."""
    with attempt() as job:

        async def outside(name: str) -> str:
            ledger.write("step begins", job=job.id, name=name)
            await asyncio.sleep(seconds / 4)
            return name

        async def within(session: AsyncSession, name: str) -> None:
            await session.execute(STEP, {"job_id": job.id, "name": name})
            await asyncio.sleep(seconds / 4)

        for number in range(4):
            name = f"step {number}"
            if number % 2:
                await step.commit(session, name, within, name)
            else:
                assert await step(name, outside, name) == name
                ledger.write("step is over", job=job.id, name=name)
            if number == 1:
                await sleep("nap", pause)


@job(queue="callbacks", max_attempts=FOREVER, backoff=0)
async def callback() -> None:
    with attempt():
        pass


def random_job(chance: random.Random) -> Job:
    """A job for any place in a workflow."""
    seconds = chance.choice([0, 0.01, 0.05, 0.3, 1.0])
    kind, within = chance.random(), chance.choice([None, None, 0.5])
    if kind < 0.25:
        return failing.new(chance.choice([0, 1, 1, 2]), chance.choice(["raise", "raise", "cancel"]))
    if kind < 0.4:
        return signalled.new(seconds, within)
    if kind < 0.5:
        return in_thread.new(seconds)
    if kind < 0.6:
        return stepping.new(seconds, chance.choice([0.05, 0.5]))
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


def random_fan(chance: random.Random) -> Workflow:
    """A workflow in which one waits for many that end at about the same moment, on several nodes."""
    flow, count = Workflow(), chance.choice([8, 16])
    for number in range(count):
        flow.add(f"m{number}", plain.new(0.0))
    flow.add("last", in_session.new(0.0), deps=[f"m{number}" for number in range(count)])
    return flow
