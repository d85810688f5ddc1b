"""A job that was cancelled before its code began does not begin, though the event loop stood still meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from oban_sa import Job, Oban, job
from oban_sa.runner.queue import attempts, stalled
from oban_sa.runner.queue.exchange import Tables
from tests.runner.conftest import Harness
from tests.support import eventually


def from_a_thread(url: str, ids: list[int]) -> None:
    """Cancel jobs while this thread waits, as another process would."""

    async def cancel() -> None:
        engine = create_async_engine(url)
        for job_id in ids:
            await Oban(engine).cancel_job(job_id)
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(cancel()))
    thread.start()
    thread.join()


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the tables were asked before jobs began late."""
    asked: list[list[int]] = []
    wanted = Tables.wanted

    async def counting(self: Tables, ids: Any) -> Any:
        asked.append(sorted(ids))
        return await wanted(self, ids)

    monkeypatch.setattr(Tables, "wanted", counting)
    return asked


@pytest.mark.usefixtures("undecided")
async def test_a_cancel_that_came_while_another_job_blocked_the_loop_is_heard_before_the_code_begins(
    harness: Harness, database_url: str, questions: list[list[int]]
) -> None:
    began: list[int] = []

    @job(name="blocks", registry=harness.registry)
    async def blocks(job: Job, ids: list[int]) -> None:
        began.append(job.id)
        from_a_thread(database_url, ids)
        time.sleep(stalled.AFTER)  # noqa: ASYNC251 - blocks on purpose

    @job(name="follows", registry=harness.registry)
    async def follows(job: Job) -> None:
        began.append(job.id)

    @job(name="asks", registry=harness.registry, cancel="ask")
    async def asks(job: Job) -> None:
        began.append(job.id)

    names = ("blocks", "follows", "asks", "follows")
    first, second, third, fourth = await harness.enqueue(*(Job(name) for name in names))
    called_off = [second, third]
    await harness.sql(
        "UPDATE oban_jobs SET args = jsonb_build_object('ids', CAST(:ids AS bigint[])) WHERE id = :id",
        ids=called_off,
        id=first,
    )
    async with harness.runner():
        await harness.becomes(first, "completed")
        for job_id in (second, third):
            await harness.becomes(job_id, "cancelled")
        await harness.becomes(fourth, "completed")
    assert began == [first, fourth]
    assert questions == [[second, third, fourth]]


@pytest.mark.usefixtures("undecided")
async def test_a_cancel_that_overtakes_the_answer_to_the_fetch_is_heard(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, questions: list[list[int]]
) -> None:
    began: list[int] = []
    exchange = Tables.exchange

    @job(name="follows", registry=harness.registry)
    async def follows(job: Job) -> None:
        began.append(job.id)

    async with harness.runner() as runner:
        await eventually(lambda: runner._notifier.proven)
        heard = asyncio.Event()
        cancel = type(runner._queues).cancel

        def cancelling(self: Any, job_id: int, **named: Any) -> None:
            cancel(self, job_id, **named)
            heard.set()

        async def slow(self: Tables, *arguments: Any) -> Any:
            acked, rows = await exchange(self, *arguments)
            if rows:
                monkeypatch.setattr(Tables, "exchange", exchange)
                await Oban(harness.engine).cancel_job(rows[0]["id"])
                await heard.wait()
            return acked, rows

        monkeypatch.setattr(type(runner._queues), "cancel", cancelling)
        monkeypatch.setattr(Tables, "exchange", slow)
        [job_id] = await harness.enqueue(follows.new())
        await harness.becomes(job_id, "cancelled")
        assert (began, questions) == ([], [[job_id]])


@pytest.mark.usefixtures("undecided")
async def test_jobs_that_begin_in_time_ask_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, questions: list[list[int]]
) -> None:
    monkeypatch.setattr(attempts, "AFTER", 10.0)  # a machine may be busy

    @job(name="follows", registry=harness.registry)
    async def follows() -> None: ...

    await harness.enqueue(*(follows.new() for _ in range(50)))
    await harness.drain()
    assert await harness.states() == {"completed": 50}
    assert questions == []


@pytest.mark.usefixtures("undecided")
async def test_where_the_tables_can_not_be_asked_jobs_begin_all_the_same(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(self: Tables, ids: Any) -> Any:
        raise ConnectionResetError("gone")

    monkeypatch.setattr(Tables, "wanted", refused)

    @job(name="blocks", registry=harness.registry)
    async def blocks() -> None:
        time.sleep(stalled.AFTER)  # noqa: ASYNC251 - blocks on purpose

    await harness.enqueue(*(blocks.new() for _ in range(3)))
    await harness.drain()
    assert await harness.states() == {"completed": 3}
