"""Code that blocks its thread harms nobody beside it."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from oban_sa import Job, job
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.mark.parametrize("kind", ["plain", "session"])
async def test_blocked_threads_leave_heartbeats_and_an_async_queue_undisturbed(harness: Harness, kind: str) -> None:
    release, blocked = threading.Event(), threading.Semaphore(0)

    if kind == "plain":

        @job(name="blocks", queue="blocking", registry=harness.registry)
        def in_thread() -> None:
            blocked.release()
            release.wait(60)

    else:

        @job(name="blocks", queue="blocking", registry=harness.registry)
        def in_thread_with_session(session: Session) -> None:
            session.execute(text("SELECT 1"))
            blocked.release()
            release.wait(60)

    @job(name="quick", registry=harness.registry)
    async def quick() -> None: ...

    async def completed() -> int:
        return (await harness.states()).get("completed", 0)

    async def beaten() -> str:
        [(at,)] = await harness.sql("SELECT max(updated_at)::text FROM oban_producers WHERE queue = 'default'")
        return at

    # One more than may run at once: a thread that came free would take it, and be counted.
    await harness.enqueue(*(Job("blocks", queue="blocking") for _ in range(5)))
    async with harness.runner(queues={"default": 10, "blocking": 4}):
        await eventually(lambda: blocked._value == 4, 30)
        await harness.enqueue(*(quick.new() for _ in range(200)))

        async def all_quick() -> bool:
            return await completed() == 200

        await eventually(all_quick, 30)
        for _ in range(3):
            before = await beaten()

            async def again(before: str = before) -> bool:
                return await beaten() != before

            await eventually(again)
        assert (await harness.states()) == {"completed": 200, "executing": 4, "available": 1}
        assert blocked._value == 4
        release.set()

        async def everything() -> bool:
            return await completed() == 205

        await eventually(everything, 30)
