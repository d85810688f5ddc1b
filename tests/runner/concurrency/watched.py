"""A program whose jobs are synchronous, to be run under coverage, a trace function or a profiler.

`python -m tests.runner.concurrency.watched URL [trace|profile]` prints in which states its jobs ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, Runner, job
from oban_sa.errors import AttemptTimedOut
from oban_sa.workers import Registry
from oban_sa.workers.middleware import CallNext
from tests.support import eventually

registry = Registry()
release = threading.Event()
begun: dict[str, threading.Event] = {name: threading.Event() for name in ("waits in c", "cancelled", "shutdown")}


@job(registry=registry)
def plain() -> None:
    pass


@job(registry=registry, timeout=0.2, max_attempts=1)
def times_out() -> None:
    while True:
        pass


@job(registry=registry, timeout=0.2, max_attempts=1)
def waits_in_c() -> None:
    """Until the loop lets it go on, which it must be able to do although an interruption is on its way to here."""
    begun["waits in c"].set()
    release.wait(60)


@job(registry=registry)
def is_cancelled() -> None:
    begun["cancelled"].set()
    while True:
        pass


@job(registry=registry)
def has_a_session(session: Session) -> None:
    session.execute(text("CREATE TABLE IF NOT EXISTS written (id int)"))


@job(registry=registry, timeout=0.2, max_attempts=1)
def times_out_in_the_database(session: Session) -> None:
    session.execute(text("SELECT pg_sleep(60)"))


@job(registry=registry, timeout=0.5, max_attempts=1)
def times_out_beside_the_database(session: Session) -> None:
    while True:
        session.execute(text("SELECT 1"))


@job(registry=registry)
def is_given_back() -> None:
    begun["shutdown"].set()
    while True:
        pass


async def passes(job: Job, call_next: CallNext) -> Any:
    return await call_next()


async def main(url: str) -> None:
    engine = create_async_engine(url)
    sooner = [plain, times_out, waits_in_c, is_cancelled, has_a_session]
    sooner += [times_out_in_the_database, times_out_beside_the_database]
    async with AsyncSession(engine) as session, session.begin():
        jobs = [each.new() for each in sooner]
        session.add_all(jobs)
    states: dict[str, str] = {}

    async def ended(*names: str) -> None:
        async with AsyncSession(engine) as session:
            rows = await session.execute(select(Job.worker, Job.state, Job.errors))
            states.update({worker.rpartition(".")[2]: str(state) for worker, state, _ in rows})
        assert all(states[name] in ("completed", "cancelled", "discarded") for name in names), states

    async with Runner(
        engine, queues={"default": 20}, registry=registry, middleware=[passes], grace=0, dead_after=60
    ) as runner:
        await eventually(lambda: begun["cancelled"].is_set(), 60)
        async with AsyncSession(engine) as session:
            [cancelled] = await session.scalars(select(Job).where(Job.worker.endswith("is_cancelled")))
        await Oban(engine).cancel_job(cancelled.id)
        await eventually(lambda: ended(*(each.__name__ for each in sooner if each is not waits_in_c)), 60)
        await eventually(lambda: begun["waits in c"].is_set(), 60)
        release.set()
        await eventually(lambda: ended("waits_in_c"), 60)
        async with AsyncSession(engine) as session, session.begin():
            session.add(is_given_back.new())
        await eventually(lambda: begun["shutdown"].is_set(), 60)
        assert runner is not None
    with_errors = AttemptTimedOut.__name__
    async with AsyncSession(engine) as session:
        rows = await session.execute(select(Job.worker, Job.state, Job.errors))
        found = {
            worker.rpartition(".")[2]: f"{state} {with_errors}" if errors and with_errors in str(errors) else str(state)
            for worker, state, errors in rows
        }
    await engine.dispose()
    print(json.dumps(found))


def watch(_frame: Any, _event: str, _argument: Any) -> Any:
    return watch


if __name__ == "__main__":
    how = sys.argv[2] if len(sys.argv) > 2 else ""
    if how == "trace":
        threading.settrace(watch)
        sys.settrace(watch)
    elif how == "profile":
        threading.setprofile(watch)
    asyncio.run(main(sys.argv[1]))
