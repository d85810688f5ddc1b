"""Members run by a runner know what they waited for: on the loop, in threads, and in processes by their arguments."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Record, Workflow, deps, enqueue
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.dependencies import RunnersDependencies
from oban_sa.workers import Registry, job
from tests.runner import process_jobs
from tests.runner.conftest import Harness
from tests.support import eventually


async def run(harness: Harness, flow: Workflow, **options: Any) -> None:
    async with harness.sessions.begin() as session:
        enqueue(session, flow)

    async def over() -> None:
        rows = await harness.sql("SELECT completed_at FROM oban_sa_flows WHERE id = :id", id=flow.id)
        assert [row.completed_at is not None for row in rows] == [True]

    async with harness.runner(**options):
        await eventually(over, 30)


async def test_every_kind_of_worker_sees_results_and_streams(harness: Harness, registry: Registry) -> None:
    seen: dict[str, object] = {}

    @job(registry=registry, record=True)
    async def say(value: int) -> int:
        return value

    async def look() -> object:
        return deps()["one"].result, deps().context, [pair async for pair in deps().stream("many")]

    def look_here() -> object:
        deps().load()
        return deps()["one"].result, deps().context, list(deps().stream("many"))

    @job(registry=registry)
    async def on_loop() -> None:
        seen["loop"] = await look()

    @job(registry=registry)
    async def in_session(session: AsyncSession) -> None:
        await session.connection()
        seen["session"] = await look()

    @job(registry=registry)
    def in_thread() -> None:
        seen["thread"] = look_here()

    @job(registry=registry)
    def in_thread_with_session(session: Session) -> None:
        session.connection()
        seen["both"] = look_here()

    flow = Workflow(context={"tenant": 7})
    flow.call("one", say, 1)
    flow.add_many("many", [say.new(number) for number in range(3)])
    for number, each in enumerate((on_loop, in_session, in_thread, in_thread_with_session)):
        flow.add(f"look {number}", each.new(), deps=["one", "many"])
    await run(harness, flow)
    expected = (1, {"tenant": 7}, [("many/0", 0), ("many/1", 1), ("many/2", 2)])
    assert seen == dict.fromkeys(("loop", "session", "thread", "both"), expected)


async def test_in_a_process_results_are_arguments_and_deps_says_so(harness: Harness, registry: Registry) -> None:
    registry.register(process_jobs.add_here.__oban_definition__)  # type: ignore[attr-defined]
    seen: list[object] = []

    @job(registry=registry)
    async def rows() -> Record[list[int]]:
        return Record([1, 2, 3])

    @job(registry=registry)
    async def look(found: list[Any]) -> None:
        seen.append(found)

    flow = Workflow()
    total = flow.call("total", process_jobs.add_here, flow.call("rows", rows).result)
    flow.call("look", look, total.result)
    await run(harness, flow)
    [[added, refused]] = seen  # type: ignore[misc]
    assert added == 6
    assert refused.startswith("DependencyNotLoaded: deps() does not reach another process; take results as arguments")


async def test_a_job_fails_where_what_it_takes_is_gone(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def rows() -> Record[list[int]]:
        return Record([1])

    @job(registry=registry, max_attempts=1)
    async def take(rows: list[int]) -> None: ...

    flow = Workflow()
    flow.call("take", take, flow.call("rows", rows).result)
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    await harness.sql("UPDATE oban_jobs SET state = 'completed' WHERE meta ->> 'name' = 'rows'")
    await harness.sql("UPDATE oban_sa_members SET settled = 'c' WHERE name = 'rows'")
    await harness.sql("DELETE FROM oban_jobs WHERE meta ->> 'name' = 'rows'")
    await harness.sql("UPDATE oban_jobs SET state = 'available' WHERE meta ->> 'name' = 'take'")
    async with harness.runner():
        [row] = await harness.sql("SELECT id FROM oban_jobs")
        failed = await harness.becomes(row.id, "discarded")
    assert "'rows' recorded nothing, or its job was deleted since" in failed.errors[0]["error"]


async def test_jobs_that_begin_together_share_a_statement_and_no_error_or_end_of_another(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    may_read = asyncio.Event()

    async def rows(_: object, make: object, given: dict[str, Any]) -> list[dict[str, int]]:
        read.append(given["jobs"])
        await may_read.wait()
        if 2 in given["jobs"]:
            raise asyncpg.DataError("what it waited for can't be read")
        return [{"job_id": each} for each in given["jobs"]]

    monkeypatch.setattr(RunnersDependencies, "_rows", rows)
    found = RunnersDependencies(Database(harness.engine))

    def ask(job_id: int) -> asyncio.Task[Any]:
        async def answer() -> object:
            return await found._rows_of(job_id)

        return asyncio.create_task(answer())

    asked = [ask(1), ask(2), ask(3), ask(3)]
    await eventually(lambda: read == [[1, 2, 3, 3]])
    asked[3].cancel()  # as one that is out of time
    await asyncio.sleep(0)
    may_read.set()
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answers[0], answers[2]] == [[{"job_id": 1}], [{"job_id": 3}]]
    assert isinstance(answers[1], asyncpg.DataError)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert read == [[1, 2, 3, 3], [1], [2], [3]]
    await found.close()
