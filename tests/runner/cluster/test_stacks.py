"""Where the code of a running job is, asked of the node that runs it."""

from __future__ import annotations

import asyncio
import threading

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, job
from oban_sa.runner.cluster.stacks import where
from oban_sa.runner.database.database import Database
from tests.runner import process_jobs
from tests.runner.conftest import Harness
from tests.support import eventually


async def stack_of(engine: AsyncEngine, job_id: int) -> str:
    said = await where(Database(engine), job_id)
    assert said is not None and said.node == "here"
    return said.stack


async def test_the_stack_of_a_coroutine_leads_to_what_it_awaits(harness: Harness) -> None:
    begun = asyncio.Event()

    async def deeper() -> None:
        begun.set()
        await asyncio.sleep(3600)  # where it waits

    @job(registry=harness.registry)
    async def waits() -> None:
        await deeper()

    (running,) = await harness.enqueue(waits.new())
    async with harness.runner(node="here", grace=0):
        await begun.wait()
        lines = [line.strip() for line in (await stack_of(harness.engine, running)).splitlines()]
    assert lines[1] == "await deeper()"
    assert "await asyncio.sleep(3600)  # where it waits" in lines
    assert "in waits" in lines[0] and "test_stacks.py" in lines[0]


async def test_the_stack_of_code_in_a_thread_is_that_of_its_own_thread(harness: Harness) -> None:
    begun, finish = threading.Barrier(3), threading.Event()

    def deeper(n: int) -> None:
        begun.wait(10)
        if n == 1:
            finish.wait(60)  # the first one's
        finish.wait(60)  # the second one's

    @job(registry=harness.registry)
    def waits(n: int) -> None:
        deeper(n)

    first, second = await harness.enqueue(waits.new(1), waits.new(2))
    async with harness.runner(node="here"):
        await asyncio.to_thread(begun.wait, 10)

        async def told() -> None:
            assert "the first one's" in await stack_of(harness.engine, first)
            assert "the second one's" in await stack_of(harness.engine, second)

        try:
            await eventually(told)
            assert (await stack_of(harness.engine, first)).splitlines()[1].strip() == "deeper(n)"
        finally:
            finish.set()


async def test_the_stack_of_code_in_a_process_is_asked_of_that(harness: Harness, tmp_path) -> None:
    mark = tmp_path / "begun"
    (running,) = await harness.enqueue(process_jobs.linger.new(str(mark)))
    async with harness.runner(node="here", registry=None, grace=0, imports=["tests.runner.process_jobs"]):
        await eventually(mark.exists, 30)
        stack = await stack_of(harness.engine, running)
    assert "in linger" in stack.splitlines()[0]
    assert "time.sleep" in stack


async def test_nobody_answers_for_a_job_that_runs_nowhere_and_what_is_no_question_is_ignored(harness: Harness) -> None:
    (waiting,) = await harness.enqueue(Job("w", schedule_in=60))
    async with harness.runner(node="here") as runner:
        assert await where(Database(harness.engine), waiting, within=0.3) is None
        async with harness.engine.begin() as connection:
            for payload in (
                "no JSON",
                "{}",
                '{"job_id": "1", "asked": "x"}',
                '{"job_id": 1}',
                '{"job_id": 1, "asked": 2}',
            ):
                await connection.execute(text("SELECT pg_notify('public.oban_nodes', :said)"), {"said": payload})
        assert await where(Database(harness.engine), waiting, within=0.3) is None
        assert (await runner.checks.ready())["notifications"].well
