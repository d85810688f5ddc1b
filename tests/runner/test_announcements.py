"""Jobs of sessions that commit side by side start at once, though not each of them announces; here nobody polls."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session

from oban_sa import Job, enqueue, job
from oban_sa.outbox import concurrent_commits
from tests.runner.conftest import Harness
from tests.support import eventually, sync_url

WRITERS = 16


def a_job(number: int) -> Job:
    return Job("noted", args={"n": number})


async def idle(harness: Harness) -> bool:
    return await harness.states() == {"completed": 1}


@pytest.fixture
def ran(harness: Harness) -> list[int]:
    ran: list[int] = []

    @job(registry=harness.registry, name="noted")
    async def noted(n: int) -> None:
        ran.append(n)

    return ran


async def test_every_job_of_a_burst_starts_when_the_last_has_committed(harness: Harness, ran: list[int]) -> None:

    async def write(number: int) -> None:
        async with harness.sessions.begin() as session:
            enqueue(session, a_job(number))

    async with harness.runner(poll_every=300, stage_every=300):
        for burst in range(10):
            await asyncio.gather(*(write(burst * WRITERS + number) for number in range(WRITERS)))
            await eventually(lambda burst=burst: len(ran) == (burst + 1) * WRITERS)

    assert sorted(ran) == list(range(10 * WRITERS))


async def test_every_job_of_a_burst_from_threads_starts_when_the_last_has_committed(
    harness: Harness, ran: list[int], database_url: str
) -> None:
    engine = create_engine(sync_url(database_url), pool_size=WRITERS)

    def write(number: int) -> None:
        with Session(engine) as session, session.begin():
            enqueue(session, a_job(number))

    with ThreadPoolExecutor(WRITERS) as pool:
        async with harness.runner(poll_every=300, stage_every=300):
            for burst in range(10):
                numbers = range(burst * WRITERS, (burst + 1) * WRITERS)
                await asyncio.to_thread(lambda numbers=numbers: list(pool.map(write, numbers)))
                await eventually(lambda burst=burst: len(ran) == (burst + 1) * WRITERS)
    engine.dispose()


async def test_a_job_that_was_left_to_a_commit_which_came_before_its_own_starts_with_its_own(
    harness: Harness, ran: list[int], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(concurrent_commits, "PATIENCE", 60.0)
    engine = create_engine(sync_url(database_url))
    first_announced, second_left_it, go = threading.Event(), threading.Event(), threading.Event()

    def commit(number: int, here: threading.Event, there: threading.Event) -> None:
        with Session(engine) as session:
            enqueue(session, a_job(number))
            session.flush()

            def hold(_: Session) -> None:
                here.set()
                assert there.wait(30)

            event.listen(session, "before_commit", hold)
            session.commit()

    async with harness.runner(poll_every=300, stage_every=300):
        first = asyncio.create_task(asyncio.to_thread(commit, 1, first_announced, second_left_it))
        await asyncio.to_thread(first_announced.wait, 30)
        second = asyncio.create_task(asyncio.to_thread(commit, 2, second_left_it, go))
        await eventually(lambda: ran == [1])
        # Whoever writes that it is done looks for others at the same time.
        await eventually(lambda: idle(harness))
        go.set()
        await asyncio.gather(first, second)
        await eventually(lambda: ran == [1, 2])
    engine.dispose()
