"""From where steps are called: other loops, and calls that are never awaited."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Oban, current_job, enqueue, progress, sleep, step, wait_for
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness

called: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def anew() -> None:
    called.clear()


async def effect(name: str) -> str:
    called[name] += 1
    return name


async def all_of_it() -> None:
    both = await asyncio.gather(step("a", effect, "a"), step("b", effect, "b"))
    assert list(both) == ["a", "b"]
    await progress(0.5, "half")
    await sleep("nap", 0.05)
    if await wait_for("go", within=0.05) is None:
        called["no signal"] += 1
    if current_job().attempt == 1:
        raise RuntimeError("once more")


def on_a_loop_of_its_own(registry: Registry) -> Any:
    @job(registry=registry, backoff=lambda _: 0, name="tests.own_loop")
    def work() -> None:
        asyncio.run(all_of_it())

    return work


async def test_code_in_a_thread_may_take_steps_on_a_loop_of_its_own(harness: Harness, registry: Registry) -> None:
    [job_id] = await harness.enqueue(on_a_loop_of_its_own(registry).new())
    async with harness.runner():
        done = await harness.becomes(job_id, "completed")
    assert (done.attempt, len(done.errors)) == (2, 1)
    assert called == {"a": 1, "b": 1, "no signal": 2}
    said = await Oban(harness.engine).progress(job_id)
    assert said is not None
    assert said.note == "half"


async def test_a_loop_in_a_thread_that_the_code_of_the_loop_has_started(harness: Harness, registry: Registry) -> None:
    @job(registry=registry, backoff=lambda _: 0)
    async def work() -> None:
        await asyncio.to_thread(lambda: asyncio.run(all_of_it()))

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert called == {"a": 1, "b": 1, "no signal": 2}


async def test_drained_and_performed_code_may_too(registry: Registry, engine: AsyncEngine, sessions: Any) -> None:
    work = on_a_loop_of_its_own(registry)
    async with sessions() as session:
        enqueue(session, work.new())
        assert await drain(session, registry=registry, with_retries=True, with_scheduled=True) == {"completed": 1}
    assert called == {"a": 1, "b": 1, "no signal": 2}
    await asyncio.to_thread(perform_job, work, {}, registry=registry, attempt=2)
    assert called["a"] == 2


async def book(session: AsyncSession) -> None:
    await session.execute(text("SELECT 1"))


UNAWAITED: list[tuple[str, Callable[[AsyncSession], Any]]] = [
    ("await step('a', ...)", lambda _: step("a", effect, "a")),
    ("await step.commit(session, 'book', ...)", lambda session: step.commit(session, "book", book)),
    ("await step.version('v2')", lambda _: step.version("v2")),
    ("await sleep('nap', ...)", lambda _: sleep("nap", "1 day")),
    ("await wait_for('go', ...)", lambda _: wait_for("go")),
    ("await progress(...)", lambda _: progress(0.5)),
]


@pytest.mark.parametrize(("words", "call"), UNAWAITED, ids=[words for words, _ in UNAWAITED])
async def test_a_call_that_is_never_awaited_fails_the_attempt(
    harness: Harness, registry: Registry, words: str, call: Callable[[AsyncSession], Coroutine[object, object, object]]
) -> None:
    await harness.sql("CREATE TABLE written (word text)")

    @job(registry=registry, max_attempts=1)
    async def work(session: AsyncSession) -> None:
        await step("before", effect, "before")
        await session.execute(text("INSERT INTO written VALUES ('word')"))
        _ = call(session)

    @job(registry=registry, max_attempts=1)
    async def later(session: AsyncSession) -> None:
        made = call(session)
        await step("after", effect, "after")
        await session.execute(text("SELECT 1"))
        await made

    ids = await harness.enqueue(work.new(), later.new())
    async with harness.runner():
        lost = await harness.becomes(ids[0], "discarded")
        assert (await harness.job(ids[1])).state != "discarded"
    assert f"was not awaited, so it did nothing; write: {words}" in lost.errors[0]["error"]
    assert called["a"] <= 1
    assert await harness.sql("SELECT * FROM written") == []
    with pytest.raises(TypeError, match="was not awaited"):
        async with harness.sessions() as session:
            await perform_job(work, {}, session=session, registry=registry)


async def test_code_in_a_thread_of_its_own_says_how_it_gets_there(harness: Harness, registry: Registry) -> None:
    said: list[str] = []

    @job(registry=registry)
    def work(session: Session) -> None:
        def lost() -> None:
            try:
                step("x", int)
            except LookupError as error:
                said.append(str(error))

        thread = threading.Thread(target=lost)
        thread.start()
        thread.join()

    [job_id] = await harness.enqueue(work.new())
    async with harness.runner():
        await harness.becomes(job_id, "completed")
    assert "contextvars.copy_context().run(function)" in said[0]
